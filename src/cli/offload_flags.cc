#include "cli/offload_flags.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "base/check.h"
#include "base/error.h"
#include "cli/model_flags.h"
#include "engine/expert_budget.h"

namespace sluice {
namespace {

OffloadPolicy ParsePolicy(const std::string& name) {
  if (name == "pipeline") return OffloadPolicy::kPipeline;
  if (name == "on-demand") return OffloadPolicy::kOnDemand;
  if (name == "serial") return OffloadPolicy::kSerial;
  SLUICE_CHECK_EQ(name, std::string("resident"));
  return OffloadPolicy::kResident;
}

EvictionPolicy ParseEviction(const std::string& name) {
  if (name == "lru") return EvictionPolicy::kLru;
  if (name == "lfu") return EvictionPolicy::kLfu;
  SLUICE_CHECK_EQ(name, std::string("correlation"));
  return EvictionPolicy::kExpected;
}

bool SimulatesLink(const OffloadFlags& flags) {
  return !flags.link_bandwidth.empty() || flags.link_latency_us > 0;
}

// A tier in host memory: a GPU's slots are filled from there; on the CPU there is one where memory
// stands for a GPU's, behind a link.
bool HasHostTier(const OffloadFlags& flags, const RunnerOptions& options) {
  return options.cuda.has_value() || SimulatesLink(flags) || !flags.ram_budget.empty();
}

[[noreturn]] void Refuse(const std::string& message) {
  throw Error(ErrorCode::kInvalidArgument, message);
}

void CheckFlags(const ModelSpec& spec, const OffloadFlags& flags, const RunnerOptions& options) {
  const bool slots = flags.expert_slots > 0 || !flags.vram_budget.empty();
  if (slots && spec.NumMoeLayers() == 0) {
    Refuse("the model has no experts: leave --vram-budget and --expert-slots out");
  }
  if (flags.expert_slots > 0 && !flags.vram_budget.empty()) {
    Refuse("--expert-slots and --vram-budget both say how many experts are held: give one of them");
  }
  if (flags.expert_slots > 0 && flags.expert_slots < kLeastExpertSlots) {
    Refuse(
        fmt::format("--expert-slots {} is fewer than {}: one expert is computed with while the "
                    "next arrives",
                    flags.expert_slots, kLeastExpertSlots));
  }
  if (flags.expert_slots > 0 && flags.policy == "resident") {
    Refuse("--offload-policy resident gives every expert a slot: leave --expert-slots out");
  }
  if (!slots && (!flags.ram_budget.empty() || SimulatesLink(flags))) {
    Refuse(
        "--ram-budget, --link-bandwidth and --link-latency-us are about experts without a slot: "
        "give --vram-budget or --expert-slots too");
  }
  if (options.cuda.has_value() && SimulatesLink(flags)) {
    Refuse("--link-bandwidth and --link-latency-us stand for a GPU's link: add --device cpu");
  }
  if (flags.cpu_experts && flags.policy != "pipeline") {
    Refuse(fmt::format("--cpu-experts is a part of --offload-policy pipeline, not of {}",
                       flags.policy));
  }
  if (flags.cpu_experts && !HasHostTier(flags, options)) {
    Refuse(
        "--cpu-experts computes experts that are behind a link: with --device cpu give "
        "--link-bandwidth too");
  }
}

}  // namespace

std::optional<uint64_t> VramBudget(const OffloadFlags& flags) {
  if (flags.vram_budget.empty()) return std::nullopt;
  return ParseBytes(flags.vram_budget);
}

void AddOffloadFlags(CLI::App& app, OffloadFlags& flags) {
  const char* group = "Experts that do not fit";
  app.add_option("--vram-budget", flags.vram_budget,
                 "Memory of what computes that this process may take, as 12GB: what weights, KV "
                 "cache and steps leave of it holds experts, the others come from the host's")
      ->group(group);
  app.add_option("--ram-budget", flags.ram_budget,
                 "Host memory for experts; those beyond it are read from the checkpoint. Default "
                 "on a GPU: what the host has to spare; on the CPU none")
      ->group(group);
  app.add_option("--expert-slots", flags.expert_slots,
                 "In place of --vram-budget: experts held at once, of all layers; 0 = all")
      ->check(Quiet(CLI::NonNegativeNumber))
      ->group(group);
  app.add_option("--offload-policy", flags.policy,
                 "pipeline; on-demand: bring what was chosen, wait, compute; serial: bring whole "
                 "layers; resident: every expert has a slot")
      ->check(Quiet(CLI::IsMember({"pipeline", "on-demand", "serial", "resident"})))
      ->group(group);
  app.add_option("--expert-eviction", flags.eviction,
                 "Which expert gives up its slot: lru, lfu, or correlation: the one expected to be "
                 "used again last")
      ->check(Quiet(CLI::IsMember({"lru", "lfu", "correlation"})))
      ->group(group);
  app.add_flag("--expert-prefetch,!--no-expert-prefetch", flags.prefetch,
               "Bring experts that the next layer is expected to choose; the default")
      ->group(group);
  app.add_flag("--ready-first,!--no-ready-first", flags.ready_first,
               "Compute with experts as they come, not in their order; the default")
      ->group(group);
  app.add_flag("--cpu-experts,!--no-cpu-experts", flags.cpu_experts,
               "Compute some of the missing experts on the CPU meanwhile; the last bits then "
               "depend on which")
      ->group(group);
  app.add_option("--batch-groups", flags.batch_groups,
                 "Parts of a step that take turns in a layer, so that one's attention hides "
                 "another's copies")
      ->check(Quiet(CLI::Range(1, 64)))
      ->group(group);
  app.add_option("--prefill-layer-groups", flags.prefill_layer_groups,
                 "Steps in which a server takes a prompt through the layers, a group of them each, "
                 "while other sequences decode: more make their pauses shorter and the prompt's "
                 "first token later")
      ->check(Quiet(CLI::Range(1, 64)))
      ->group(group);
  app.add_option("--link-bandwidth", flags.link_bandwidth,
                 "With --device cpu: bytes a second of the link that copies stand for, as 5GB")
      ->group(group);
  app.add_option("--link-latency-us", flags.link_latency_us,
                 "With --device cpu: microseconds that each copy takes on top")
      ->check(Quiet(CLI::Range(0.0, 1e6)))
      ->group(group);
}

void ApplyOffloadFlags(const ModelSpec& spec, const OffloadFlags& flags, RunnerOptions& options) {
  CheckFlags(spec, flags, options);
  if (!flags.InUse()) return;
  const int all = spec.NumMoeLayers() > 0 ? ExpertsInAll(spec, options) : 0;
  options.expert_slots = flags.expert_slots < all ? flags.expert_slots : 0;
  options.offload.streaming = {.policy = ParsePolicy(flags.policy),
                               .prefetch = flags.prefetch,
                               .ready_first = flags.ready_first,
                               .cpu_experts = flags.cpu_experts && !options.batch_invariant,
                               .batch_groups = flags.batch_groups};
  options.offload.eviction = ParseEviction(flags.eviction);
  options.offload.prefill_layer_groups = std::min(flags.prefill_layer_groups, spec.num_layers);
  options.offload.link = {.latency_s = flags.link_latency_us * 1e-6};
  if (!flags.link_bandwidth.empty()) {
    options.offload.link.bytes_per_s = static_cast<double>(ParseBytes(flags.link_bandwidth));
  }
  if (flags.cpu_experts && options.batch_invariant) {
    spdlog::warn("--batch-invariant: CPU and GPU do not round alike, so --cpu-experts is left out");
  }
  // The link is what a step waits for, prefill most of all: to be the same to the bit wherever
  // experts are costs little.
  if (options.cuda.has_value() && !flags.cpu_experts) options.batch_invariant = true;
  options.decoding_first = true;
}

void PlaceExperts(const ModelSpec& spec, const OffloadFlags& flags, RunnerOptions& options) {
  if (const std::optional<uint64_t> budget = VramBudget(flags)) {
    const int all = ExpertsInAll(spec, options);
    const int slots = SlotsWithin(spec, options, *budget);
    if (flags.policy == "resident" && slots < all) {
      RunnerOptions resident = options;
      resident.expert_slots = 0;
      const uint64_t bytes = EstimateMemory(spec, resident).total();
      throw Error(
          ErrorCode::kResourceExhausted,
          fmt::format("--offload-policy resident gives all {} experts a slot: --vram-budget "
                      "holds {} of them, the smallest that works is --vram-budget {} ({})",
                      all, slots, bytes, FormatBytes(bytes)));
    }
    options.expert_slots = slots < all ? slots : 0;
  }
  if (options.expert_slots == 0 || !HasHostTier(flags, options)) return;
  if (options.offload.shared_host != nullptr) return;  // it is there
  std::optional<uint64_t> ram;
  if (!flags.ram_budget.empty()) ram = ParseBytes(flags.ram_budget);
  options.offload.host_slots = HostSlotsWithin(spec, options, ram);
}

}  // namespace sluice
