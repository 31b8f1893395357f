#include "cli/offload_choice.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "base/error.h"
#include "base/machine.h"
#include "base/thread_pool.h"
#include "bench/machine_profile.h"
#include "device/buffer.h"
#include "engine/expert_budget.h"
#include "model/model_weights.h"

namespace sluice {
namespace {

// Bytes per second that experts come from the checkpoint, by as many threads as read them later.
double MeasureExpertReads(const OpenedModel& model, const RunnerOptions& options) {
  constexpr int kReaders = 4;
  constexpr int kMostRounds = 16;
  constexpr std::chrono::milliseconds kEnough{250};
  const ExpertLayout layout = ExpertLayoutOf(model.spec, options.dtype);
  const CheckpointExperts source(model.spec, *model.source);
  const std::vector<int> layers = MoeLayers(model.spec);
  const Buffer slots(kReaders * layout.SlotBytes());
  ThreadPool readers(kReaders);
  const auto begin = std::chrono::steady_clock::now();
  int64_t read = 0;
  for (int round = 0; round < kMostRounds; ++round) {
    const int layer = layers[round % layers.size()];
    readers.ParallelFor(kReaders, 1, [&](int64_t first, int64_t last, int) {
      for (int64_t i = first; i < last; ++i) {
        const int expert = static_cast<int>(round * kReaders + i) % model.spec.moe.num_experts;
        source.Read(layer, expert, SlotViewOf(layout, slots.data() + i * layout.SlotBytes()));
      }
    });
    read += kReaders * layout.SlotBytes();
    if (std::chrono::steady_clock::now() - begin > kEnough) break;
  }
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
  return static_cast<double>(read) / taken.count();
}

void RefuseForeign(const HardwareProfile& given, const HardwareProfile& here,
                   const std::string& file) {
  const std::vector<std::string> foreign = ForeignFigures(given, here);
  if (foreign.empty()) return;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("--hardware {} is of another machine: {}. Measure this one with 'sluice "
                          "profile --out FILE', or leave --hardware out",
                          file, fmt::join(foreign, "; ")));
}

// A prompt of some dozens of tokens needs nearly every expert, and streams wait for its steps.
void SayWhatPromptsTake(const ModelSpec& spec, const RunnerOptions& options, int slots,
                        double link_bandwidth) {
  const int missing = ExpertsInAll(spec, options) - slots;
  if (missing <= 0) return;
  const uint64_t bytes =
      missing * static_cast<uint64_t>(ExpertLayoutOf(spec, options.dtype).SlotBytes());
  const int steps = options.offload.prefill_layer_groups;
  spdlog::info(
      "offload: a prompt may need all {} experts without a slot, {} over the link in {:.2f} s at "
      "least; beside sequences that decode it takes {} for them (--prefill-layer-groups){}",
      missing, FormatBytes(bytes), static_cast<double>(bytes) / link_bandwidth,
      steps == 1 ? "one step" : fmt::format("{} steps", steps),
      options.cuda && !options.offload.streaming.cpu_experts ? ", and less time with --cpu-experts"
                                                             : "");
}

// Of FitToMachine: chooses the sequences, and within a limit the layer groups, for a runner that is
// else as `options`.
void FitSequences(const ModelSpec& spec, const FitFlags& fit, const HardwareProfile& machine,
                  RunnerOptions options, ModelFlags& flags, EngineFlags& engine) {
  // Of a server's: a batch is of at most so many, each with room for so many positions.
  constexpr int kMost = 256;
  constexpr int kPositions = 1024;
  // Steps in which prompts may go through the layers to keep a limit: they take as much longer.
  constexpr int kMostLayerGroups = 8;
  const int positions = std::min(options.max_model_len, kPositions);
  const auto options_of = [&](int sequences) -> std::optional<RunnerOptions> {
    EngineFlags with = engine;
    with.max_num_seqs = sequences;
    RunnerOptions own = options;
    own.max_sequences = sequences;
    own.max_step_rows = std::max(engine.max_num_batched_tokens, sequences);
    own.num_pages = DefaultPages(spec, flags.offload, with, own);
    const int64_t room = int64_t{own.num_pages} * own.page_size;
    if (sequences > 1 && room < int64_t{sequences} * positions) return std::nullopt;
    return own;
  };
  const ModelFootprint footprint = FootprintOf(spec, options);
  OffloadRequest request = RequestFor(spec, flags.offload, machine, options_of, positions,
                                      fit.seqs_given ? engine.max_num_seqs : kMost);
  int& groups = options.offload.prefill_layer_groups;
  const int most_groups = std::min(std::max(groups, kMostLayerGroups), spec.num_layers);
  const bool is_limited = fit.max_step_ms > 0.0;
  if (is_limited) {
    request.max_step_s = fit.max_step_ms * 1e-3;
    request.prompt_share = PromptShare(footprint, spec.num_layers, most_groups);
  }
  const OffloadPlan plan = SolveOffload(footprint, machine, request);
  OffloadStep step = plan.best;
  if (is_limited) {
    groups =
        LayerGroupsWithin(footprint, machine, request, step, spec.num_layers, groups, most_groups);
    request.prompt_share = PromptShare(footprint, spec.num_layers, groups);
    step = CostStep(footprint, machine, request, step.sequences, step.cached_experts);
    flags.offload.prefill_layer_groups = groups;
  }
  engine.max_num_seqs = step.sequences;
  const auto rate = [](double bytes) { return FormatBytes(static_cast<uint64_t>(bytes)) + "/s"; };
  spdlog::info(
      "offload: {} sequences at once ({}) by {}: {:.1f} tokens/s, a step of {:.1f} ms bound by the "
      "{}, {:.1f} of {} experts a layer, {:.0f} % of them in slots; one sequence {:.1f} tokens/s; "
      "{} fit; link {}, host memory {}",
      step.sequences,
      is_limited ? fmt::format("--max-step-ms {}: {:.1f} ms beside a prompt", fit.max_step_ms,
                               1e3 * step.beside_prompt_s)
                 : "--max-num-seqs says otherwise, --max-step-ms for how long",
      machine.name, step.tokens_per_s, 1e3 * step.step_s, step.bound, step.distinct_experts,
      spec.moe.num_experts, 100 * step.hit_rate, plan.one.tokens_per_s, plan.memory_limit,
      rate(*machine.link_bandwidth), rate(*machine.host_bandwidth));
  SayWhatPromptsTake(spec, options, step.cached_experts, *machine.link_bandwidth);
}

}  // namespace

HardwareProfile OffloadMachine(const OpenedModel& model, const RunnerOptions& options,
                               const std::string& hardware) {
  std::optional<HardwareProfile> given;
  if (!hardware.empty()) given = ReadProfile(hardware);
  const ExpertLayout layout = ExpertLayoutOf(model.spec, options.dtype);
  HardwareProfile here =
      MeasureForOffload({.num_threads = options.num_threads,
                         .cpu_experts = options.offload.streaming.cpu_experts,
                         .tier = options.tier,
                         .cuda = options.cuda,
                         .link = options.offload.link,
                         .dtype = options.dtype,
                         .expert_bytes = static_cast<size_t>(layout.SlotBytes())});
  if (given) RefuseForeign(*given, here, hardware);
  HardwareProfile& machine = given ? *given : here;
  const HardwareFigure host_flops = HostFlops(options.dtype);
  if (!(machine.*host_flops)) machine.*host_flops = here.*host_flops;
  const bool reads = options.offload.host_slots < ExpertsInAll(model.spec, options);
  if (reads && !machine.disk_bandwidth) {
    machine.disk_bandwidth = MeasureExpertReads(model, options);
  }
  return machine;
}

ModelFootprint FootprintOf(const ModelSpec& spec, const RunnerOptions& options) {
  const auto bits = [](DType dtype) { return 8.0 * static_cast<double>(SizeOf(dtype)); };
  return FootprintOf(spec, bits(options.dtype), bits(options.dtype),
                     bits(KvLayoutOf(spec, options).groups.front().dtype));
}

OffloadRequest RequestFor(const ModelSpec& spec, const OffloadFlags& flags,
                          const HardwareProfile& machine, const OptionsOfSequences& options_of,
                          int context, int most) {
  const std::optional<RunnerOptions> alone = options_of(1);
  if (!alone) throw Error(ErrorCode::kResourceExhausted, "not one sequence fits");
  const std::optional<uint64_t> budget = VramBudget(flags);
  if (budget) SlotsWithin(spec, *alone, *budget);  // says the smallest that works
  OffloadRequest request{
      .vram_budget = static_cast<double>(budget.value_or(0)),
      .ram_budget = alone->offload.host_slots * FootprintOf(spec, *alone).expert_bytes,
      .context = context,
      .max_sequences = most,
      .evicts_lru = flags.eviction == "lru"};
  if (alone->offload.streaming.cpu_experts) request.cpu_flops = machine.*HostFlops(alone->dtype);
  request.slots = [&spec, options_of, budget](int sequences) {
    const std::optional<RunnerOptions> options = options_of(sequences);
    if (!options) return -1;
    if (!budget)
      return options->expert_slots > 0 ? options->expert_slots : ExpertsInAll(spec, *options);
    if (SmallestBudget(spec, *options) > *budget) return -1;
    return SlotsWithin(spec, *options, *budget);
  };
  return request;
}

void FitToMachine(const OpenedModel& model, const FitFlags& fit, ModelFlags& flags,
                  EngineFlags& engine) {
  const bool is_limited = fit.max_step_ms > 0.0;
  const bool in_use = flags.offload.InUse() && model.spec.NumMoeLayers() > 0;
  if (!in_use && (is_limited || !fit.hardware.empty())) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} is read where experts do not fit: give --vram-budget too",
                            is_limited ? "--max-step-ms" : "--hardware"));
  }
  const bool chooses = !fit.seqs_given || is_limited;
  if (!in_use || (!chooses && fit.hardware.empty())) return;
  EngineFlags one = engine;
  if (chooses) one.max_num_seqs = 1;  // more of them may leave fewer experts a slot
  RunnerOptions base = ResolveRunnerOptions(model.spec, flags, one);
  PlaceExperts(model.spec, flags.offload, base);
  if (base.expert_slots == 0 && fit.hardware.empty() && !is_limited) return;
  const HardwareProfile machine = OffloadMachine(model, base, fit.hardware);
  if (!chooses || (base.expert_slots == 0 && !is_limited)) return;
  FitSequences(model.spec, fit, machine, base, flags, engine);
}

}  // namespace sluice
