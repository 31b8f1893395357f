#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <memory>

#include "base/error.h"
#include "base/machine.h"
#include "cli/commands.h"
#include "cli/loaded_model.h"
#include "cli/model_flags.h"
#include "plan/hardware_profile.h"
#include "plan/placement_plan.h"
#include "study/load_balance_study.h"

namespace sluice {
namespace {

namespace json = boost::json;

struct PlacementFlags {
  ModelFlags model;
  std::string hardware;
  PlacementRequest request;
  std::string gpu_memory;
  double gpu_memory_utilization = 0.9;
  double bits = 0.0;
  double expert_bits = 0.0;
  std::string trace;
  bool json = false;
};

double StoredBits(const ModelSpec& spec) {
  return spec.block_scaled ? 8.0 : 8.0 * static_cast<double>(SizeOf(spec.checkpoint_dtype));
}

// How unevenly the trace loads GPUs that experts are spread over, without and with replicas.
void UseTrace(const std::string& path, const ModelSpec& spec, PlacementRequest& request) {
  const OpenSource open = [&path] { return std::make_unique<RouterTraceReader>(path); };
  LoadBalanceRequest balance{.balance = {.ranks = request.gpus}, .coactivation = false};
  if (open()->header().num_experts != spec.moe.num_experts) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} was recorded with {} experts, the model has {}", path,
                            open()->header().num_experts, spec.moe.num_experts));
  }
  const int share = (spec.moe.num_experts + request.gpus - 1) / request.gpus;
  balance.slots_per_rank = share + request.extra_slots;
  const LoadBalanceReport report = StudyLoadBalance(open, balance);
  request.imbalance = report.placements.front().cost.max_over_mean;
  request.replicated_imbalance = report.placements.back().cost.max_over_mean;
}

PlacementRequest Resolve(const PlacementFlags& flags, const ModelSpec& spec,
                         const HardwareProfile& profile) {
  PlacementRequest request = flags.request;
  if (!flags.gpu_memory.empty()) {
    request.gpu_memory = static_cast<double>(ParseBytes(flags.gpu_memory));
  } else if (profile.gpu_memory) {
    request.gpu_memory = *profile.gpu_memory;
  } else {
    throw Error(ErrorCode::kInvalidArgument,
                "the hardware profile has no gpu.memory_bytes: say --gpu-memory, as 80GB");
  }
  request.gpu_memory *= flags.gpu_memory_utilization;
  request.weight_bits = flags.bits > 0 ? flags.bits : StoredBits(spec);
  request.expert_bits = flags.expert_bits > 0 ? flags.expert_bits : request.weight_bits;
  if (!flags.trace.empty()) UseTrace(flags.trace, spec, request);
  return request;
}

json::object Describe(const PlacementStep& step) {
  return {{"tokens", step.tokens},
          {"memory_s", step.memory_s},
          {"compute_s", step.compute_s},
          {"communication_s", step.communication_s},
          {"sent_bytes", step.sent_bytes},
          {"step_s", step.step_s},
          {"tokens_per_s", step.tokens_per_s}};
}

json::object Describe(const StrategyResult& result) {
  json::object object{{"strategy", PlacementStrategyName(result.layout.strategy)},
                      {"tensor_parallel", result.layout.tp},
                      {"data_parallel", result.layout.dp},
                      {"experts_spread", result.layout.spread},
                      {"extra_slots", result.layout.extra}};
  if (!result.refused.empty()) {
    object["refused"] = result.refused;
    return object;
  }
  object["fits"] = result.fits();
  object["short_by"] = result.short_by;
  object["gpu_bytes"] =
      json::object{{"weights", result.memory.weights},         {"kv", result.memory.kv},
                   {"activations", result.memory.activations}, {"buffers", result.memory.buffers},
                   {"runtime", result.memory.runtime},         {"total", result.memory.total()}};
  object["exchange"] = result.exchange;
  object["prefill"] = Describe(result.prefill);
  object["decode"] = Describe(result.decode);
  object["most_sequences"] = result.most_sequences;
  object["longest_context"] = result.longest_context;
  return object;
}

std::string LayoutName(const GpuLayout& layout) {
  std::string name = PlacementStrategyName(layout.strategy);
  if (layout.strategy == PlacementStrategy::kHybrid) {
    name += fmt::format(" tp{} dp{}", layout.tp, layout.dp);
  }
  return name;
}

void PrintResult(const StrategyResult& result, bool best) {
  const auto gb = [](double bytes) { return bytes / 1e9; };
  if (!result.refused.empty()) {
    fmt::print("{:<16}  {}\n", LayoutName(result.layout), result.refused);
    return;
  }
  const GpuMemory& memory = result.memory;
  fmt::print(
      "{:<16}  {:>7.1f}  {:>6.1f}  {:>6.1f}  {:>7.1f}  {:>7.2f}  {:>8.2f}  {:>8.0f}  "
      "{:>9.0f}  {:>6}  {:>8.0f}  {}\n",
      LayoutName(result.layout), gb(memory.weights), gb(memory.kv),
      gb(memory.activations + memory.buffers), gb(memory.total()),
      1e3 * result.decode.communication_s, 1e3 * result.decode.step_s, result.decode.tokens_per_s,
      result.prefill.tokens_per_s, result.most_sequences, result.longest_context,
      result.short_by > 0 ? "short by " + FormatBytes(static_cast<uint64_t>(result.short_by))
                          : (best ? "<- best" : ""));
}

void PrintPlan(const OpenedModel& model, const HardwareProfile& profile,
               const PlacementRequest& request, const PlacementPlan& plan) {
  fmt::print(
      "{} at {:g} bits a weight on {} x {} ({} figures) of {} in {} host{}; {} sequences of "
      "{} positions\n",
      model.name, request.expert_bits, request.gpus, profile.name,
      profile.origin == ProfileOrigin::kPublished ? "published" : "measured",
      FormatBytes(static_cast<uint64_t>(request.gpu_memory)), request.hosts,
      request.hosts == 1 ? "" : "s", request.sequences, request.context);
  fmt::print("{:<16}  {:>7}  {:>6}  {:>6}  {:>7}  {:>7}  {:>8}  {:>8}  {:>9}  {:>6}  {:>8}\n",
             "strategy", "weights", "KV", "work", "GB/GPU", "comm ms", "step ms", "tok/s",
             "prefill/s", "batch", "context");
  for (size_t i = 0; i < plan.results.size(); ++i) PrintResult(plan.results[i], plan.best == i);
  if (model.spec.attention.mask == ops::AttentionMask::kFull) {
    fmt::print(
        "its tokens see those behind them: a step runs all positions anew, as prefill/s says; "
        "figures of decoding are not its own\n");
  }
  if (!plan.best) {
    fmt::print("{}\n", plan.reason);
    return;
  }
  const StrategyResult& best = plan.results[*plan.best];
  fmt::print("{}: {}; experts' tokens go by {}; queue depth {}\n", LayoutName(best.layout),
             plan.reason, best.exchange, plan.queue_depth);
}

int RunPlacement(const PlacementFlags& flags) {
  ModelFlags asked = flags.model;
  asked.load_format = "dummy";  // a plan needs no weights
  const OpenedModel opened = OpenModel(asked);
  const HardwareProfile profile = ReadProfile(flags.hardware);
  const PlacementRequest request = Resolve(flags, opened.spec, profile);
  const PlacementPlan plan = PlanPlacement(opened.spec, profile, request);
  if (flags.json) {
    json::array results;
    for (const StrategyResult& result : plan.results) results.push_back(Describe(result));
    json::object report{{"model", opened.name},
                        {"hardware", profile.name},
                        {"gpus", request.gpus},
                        {"hosts", request.hosts},
                        {"gpu_memory", request.gpu_memory},
                        {"sequences", request.sequences},
                        {"context", request.context},
                        {"expert_bits", request.expert_bits},
                        {"weight_bits", request.weight_bits},
                        {"imbalance", request.imbalance},
                        {"replicated_imbalance", request.replicated_imbalance},
                        {"strategies", std::move(results)},
                        {"queue_depth", plan.queue_depth},
                        {"reason", plan.reason}};
    report["best"] = plan.best ? json::value(*plan.best) : json::value(nullptr);
    // Again under a name of its own, for studies, which name figures by their paths.
    if (plan.best) report["recommended"] = json::value(report["strategies"].at(*plan.best));
    fmt::print("{}\n", json::serialize(report));
  } else {
    PrintPlan(opened, profile, request, plan);
  }
  return plan.best ? 0 : 1;
}

void AddPlacementFlags(CLI::App& command, PlacementFlags& flags) {
  AddSpecFlags(command, flags.model);
  PlacementRequest& request = flags.request;
  command
      .add_option("--hardware", flags.hardware, "Hardware profile, as those in configs/profiles")
      ->required();
  command.add_option("--gpus", request.gpus, "GPUs of all hosts")
      ->check(Quiet(CLI::Range(1, 1024)));
  command.add_option("--hosts", request.hosts, "Hosts, with as many GPUs each")
      ->check(Quiet(CLI::Range(1, 1024)));
  command.add_option("--gpu-memory", flags.gpu_memory,
                     "Memory of a GPU, as 80GB; default: the profile's");
  command
      .add_option("--gpu-memory-utilization", flags.gpu_memory_utilization,
                  "Share of it that may be used")
      ->check(Quiet(CLI::Range(0.01, 1.0)));
  command.add_option("--max-num-seqs", request.sequences, "Sequences in flight")
      ->check(Quiet(CLI::Range(1, 65536)));
  command.add_option("--context", request.context, "Positions a sequence holds")
      ->check(Quiet(CLI::Range(1, 1 << 24)));
  command
      .add_option("--max-num-batched-tokens", request.step_tokens,
                  "Tokens of a prefill step, in each group with sequences of its own")
      ->check(Quiet(CLI::Range(1, 1 << 20)));
  const auto bits = Quiet(CLI::Range(0.0, 32.0));
  command.add_option("--weight-bits", flags.bits, "Bits of a weight; 0 = as stored")->check(bits);
  command
      .add_option("--expert-bits", flags.expert_bits,
                  "Bits of an expert's weight; 0 = as --weight-bits")
      ->check(bits);
  command.add_option("--kv-bits", request.kv_bits, "Bits of a key's or value's element")
      ->check(Quiet(CLI::Range(1.0, 32.0)));
  command
      .add_option("--extra-slots", request.extra_slots,
                  "Experts of a layer that a GPU holds beside its share, when replicated")
      ->check(Quiet(CLI::Range(1, 1024)));
  command.add_option(
      "--router-trace", flags.trace,
      "Take from this trace how unevenly experts load GPUs; without, they are alike");
  command.add_flag("--json", flags.json, "Print every figure as JSON");
}

}  // namespace

Command AddPlanPlacement(CLI::App& app) {
  auto flags = std::make_shared<PlacementFlags>();
  CLI::App* command = app.add_subcommand(
      "placement", "Compare ways to lay a model over GPUs: memory, communication and time of each");
  AddPlacementFlags(*command, *flags);
  return [flags] { return RunPlacement(*flags); };
}

}  // namespace sluice
