#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <limits>
#include <memory>
#include <set>

#include "base/error.h"
#include "base/machine.h"
#include "bench/machine_profile.h"
#include "cli/commands.h"
#include "cli/loaded_model.h"
#include "cli/model_flags.h"
#include "engine/expert_budget.h"
#include "plan/batch_theory.h"
#include "plan/hardware_profile.h"
#include "plan/offload_plan.h"

namespace sluice {
namespace {

namespace json = boost::json;

struct TheoryFlags {
  BatchTheory theory;
  std::vector<int> sequences = {1, 2, 4, 8, 16, 32, 64, 128};
  std::string hardware;
  bool json = false;
};

// The theory of the layer that a measured profile holds: experts cross the link, attention and gate
// are what no transfer hides.
BatchTheory TheoryOf(const std::string& path) {
  const HardwareProfile profile = ReadProfile(path);
  if (!profile.layer) {
    throw Error(ErrorCode::kInvalidArgument,
                path + ": has no latencies of a layer; 'sluice profile MODEL --out' measures them");
  }
  const LayerLatencies& layer = *profile.layer;
  return {.num_experts = layer.num_experts,
          .top_k = layer.top_k,
          .num_layers = layer.num_layers,
          .expert_ms = 1e3 * layer.expert_load_s,
          .layer_ms = 1e3 * (layer.attention_s + layer.gate_s)};
}

int RunTheory(const TheoryFlags& flags) {
  const BatchTheory theory = flags.hardware.empty() ? flags.theory : TheoryOf(flags.hardware);
  const std::vector<BatchTheoryRow> rows = EvaluateTheory(theory, flags.sequences);
  if (flags.json) {
    json::array listed;
    for (const BatchTheoryRow& row : rows) {
      listed.push_back({{"sequences", row.sequences},
                        {"distinct_experts", row.distinct_experts},
                        {"step_ms", row.step_ms},
                        {"tokens_per_s", row.tokens_per_s},
                        {"speedup", row.speedup}});
    }
    fmt::print("{}\n", json::serialize(json::object{{"experts", theory.num_experts},
                                                    {"top_k", theory.top_k},
                                                    {"layers", theory.num_layers},
                                                    {"expert_ms", theory.expert_ms},
                                                    {"layer_ms", theory.layer_ms},
                                                    {"sequence_ms", theory.sequence_ms},
                                                    {"rows", std::move(listed)}}));
    return 0;
  }
  fmt::print("{} of {} experts in {} layers, {:.3f} ms to bring one\n", theory.top_k,
             theory.num_experts, theory.num_layers, theory.expert_ms);
  fmt::print("{:>9}  {:>16}  {:>9}  {:>8}  {:>8}\n", "sequences", "distinct experts", "step ms",
             "tok/s", "speedup");
  for (const BatchTheoryRow& row : rows) {
    fmt::print("{:>9}  {:>16.1f}  {:>9.1f}  {:>8.1f}  {:>7.2f}x\n", row.sequences,
               row.distinct_experts, row.step_ms, row.tokens_per_s, row.speedup);
  }
  return 0;
}

struct PlanOffloadFlags {
  ModelFlags model;
  std::string hardware;
  std::string vram_budget;
  std::string ram_budget;
  int context = 2048;
  int max_num_seqs = 1024;
  double expert_bits = 16.0;
  double weight_bits = 16.0;
  double kv_bits = 16.0;
  double max_step_ms = 0.0;
  bool cpu_experts = false;
  std::string trace;
  std::string cache_policy = "lru";
  bool json = false;
};

// Share of a machine's memory that a plan takes when nobody says how much.
constexpr double kDefaultMemoryShare = 0.9;
// Sizes at which a trace's hit rate is simulated; between them it is interpolated.
constexpr int kCurvePoints = 32;
// Accesses that are read of a trace: 4 bytes each.
constexpr uint64_t kMaxAccesses = uint64_t{1} << 25;

double Budget(const std::string& text, const std::optional<double>& figure, const char* flag,
              const char* name) {
  if (!text.empty()) return static_cast<double>(ParseBytes(text));
  if (figure) return *figure * kDefaultMemoryShare;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("the hardware profile has no {}: say {}, as 24GB", name, flag));
}

ExpertAccesses ReadTrace(const std::string& path, const ModelFootprint& model) {
  RouterTraceReader reader(path);
  const RouterTraceHeader& header = reader.header();
  if (header.num_experts != model.num_experts || header.top_k != model.top_k) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} was recorded with {} of {} experts, the model has {} of {}", path,
                            header.top_k, header.num_experts, model.top_k, model.num_experts));
  }
  return ReadAccesses(reader, kMaxAccesses);
}

json::object DescribeStep(const OffloadStep& step) {
  return {{"sequences", step.sequences},
          {"cached_experts", step.cached_experts},
          {"distinct_experts", step.distinct_experts},
          {"hit_rate", step.hit_rate},
          {"link_s", step.link_s},
          {"host_s", step.host_s},
          {"disk_s", step.disk_s},
          {"gpu_memory_s", step.gpu_memory_s},
          {"gpu_compute_s", step.gpu_compute_s},
          {"step_s", step.step_s},
          {"tokens_per_s", step.tokens_per_s},
          {"bound", step.bound}};
}

void PrintStep(const OffloadStep& step, bool best) {
  const double gpu_s = std::max(step.gpu_memory_s, step.gpu_compute_s);
  fmt::print(
      "{:>9}  {:>8.1f}  {:>7}  {:>6.1f}%  {:>9.2f}  {:>9.2f}  {:>9.2f}  {:>9.2f}  {:>9.2f}  "
      "{:>9.1f}  {}{}\n",
      step.sequences, step.distinct_experts, step.cached_experts, 100 * step.hit_rate,
      1e3 * step.link_s, 1e3 * step.host_s, 1e3 * step.disk_s, 1e3 * gpu_s, 1e3 * step.step_s,
      step.tokens_per_s, step.bound, best ? "  <- best" : "");
}

// The plan's rows for reading: powers of two, the best, and the most that fit.
std::vector<OffloadStep> StepsToShow(const ModelFootprint& model, const HardwareProfile& profile,
                                     const OffloadRequest& request, const OffloadPlan& plan) {
  std::set<int> counts{plan.best.sequences, plan.memory_limit};
  for (int n = 1; n <= plan.memory_limit; n *= 2) counts.insert(n);
  std::vector<OffloadStep> steps;
  for (const int n : counts) {
    steps.push_back(CostStep(model, profile, request, n, CacheCapacity(model, request, n)));
  }
  return steps;
}

void PrintPlan(const PlanOffloadFlags& flags, const std::string& name, const ModelFootprint& model,
               const HardwareProfile& profile, const OffloadRequest& request,
               const OffloadPlan& plan, const std::vector<OffloadStep>& steps) {
  const auto bytes = [](double value) { return FormatBytes(static_cast<uint64_t>(value)); };
  fmt::print("{} on {} ({} figures): {} of GPU memory, {} of host memory, {} positions\n", name,
             profile.name, profile.origin == ProfileOrigin::kPublished ? "published" : "measured",
             bytes(request.vram_budget), bytes(request.ram_budget), flags.context);
  fmt::print("  {} an expert, {} of other weights, {} of KV a sequence\n",
             bytes(model.expert_bytes), bytes(model.resident_bytes),
             bytes(model.kv_bytes * request.context));
  fmt::print("{:>9}  {:>8}  {:>7}  {:>7}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}  {}\n",
             "sequences", "distinct", "cached", "hits", "link ms", "host ms", "disk ms", "GPU ms",
             "step ms", "tok/s", "bound");
  for (const OffloadStep& step : steps) {
    PrintStep(step, step.sequences == plan.best.sequences);
  }
  fmt::print("best: {} sequences, {:.1f} tok/s, {:.2f}x of one; bound by the {}; {} fit\n",
             plan.best.sequences, plan.best.tokens_per_s,
             plan.best.tokens_per_s / plan.one.tokens_per_s, plan.best.bound, plan.memory_limit);
  if (plan.hides_link) {
    fmt::print("what is missing is hidden from {} sequences on\n", *plan.hides_link);
  } else {
    fmt::print("what is missing is never hidden\n");
  }
}

json::object DescribePlan(const std::string& name, const ModelFootprint& model,
                          const HardwareProfile& profile, const OffloadRequest& request,
                          const OffloadPlan& plan, const std::vector<OffloadStep>& steps) {
  json::array listed;
  for (const OffloadStep& step : steps) listed.push_back(DescribeStep(step));
  json::object object{{"model", name},
                      {"hardware", ToJson(profile)},
                      {"vram_budget", request.vram_budget},
                      {"ram_budget", request.ram_budget},
                      {"context", request.context},
                      {"cpu_experts", request.cpu_flops.has_value()},
                      {"expert_bytes", model.expert_bytes},
                      {"resident_bytes", model.resident_bytes},
                      {"kv_bytes_per_position", model.kv_bytes},
                      {"best", DescribeStep(plan.best)},
                      {"one", DescribeStep(plan.one)},
                      {"memory_limit", plan.memory_limit},
                      {"steps", std::move(listed)}};
  object["hides_link"] = plan.hides_link ? json::value(*plan.hides_link) : json::value(nullptr);
  return object;
}

// What the trace's accesses give in a cache of the plan's size, by policy.
json::object CompareCaches(const ExpertAccesses& accesses, int slots) {
  json::object rates{{"slots", slots},
                     {"accesses", accesses.keys.size()},
                     {"whole_trace", accesses.complete},
                     {"tokens_per_layer_step", static_cast<double>(accesses.tokens) /
                                                   std::max<uint64_t>(1, accesses.layer_steps)}};
  for (const CachePolicy policy : {CachePolicy::kLru, CachePolicy::kLfu, CachePolicy::kBelady}) {
    rates[CachePolicyName(policy)] = SimulateCache(accesses, slots, policy).HitRate();
  }
  return rates;
}

void PrintCaches(const json::object& rates) {
  const auto percent = [&](const char* key) { return 100 * rates.at(key).to_number<double>(); };
  fmt::print(
      "trace: {} accesses{}, {:.1f} tokens a step; {} slots hit lru {:.1f} %, lfu {:.1f} %, "
      "belady {:.1f} %\n",
      rates.at("accesses").to_number<uint64_t>(),
      rates.at("whole_trace").as_bool() ? "" : " (its beginning)",
      rates.at("tokens_per_layer_step").to_number<double>(), rates.at("slots").to_number<int>(),
      percent("lru"), percent("lfu"), percent("belady"));
}

// The options of a runner on a GPU that holds weights as the flags say; none where runners hold no
// such weights.
std::optional<RunnerOptions> OptionsOf(const PlanOffloadFlags& flags, int sequences) {
  const bool bf16 = flags.expert_bits == 16 && flags.weight_bits == 16;
  const bool f32 = flags.expert_bits == 32 && flags.weight_bits == 32;
  const bool kv = flags.kv_bits == 16 || flags.kv_bits == 32;
  if (!kv || (!bf16 && !f32)) return std::nullopt;
  RunnerOptions options{.cuda = 0,
                        .dtype = bf16 ? DType::kBF16 : DType::kF32,
                        .kv_dtype = flags.kv_bits == 16 ? DType::kBF16 : DType::kF32};
  options.max_model_len = flags.context;
  options.num_pages = sequences * ((flags.context + options.page_size - 1) / options.page_size);
  options.max_step_rows = std::max(options.max_step_rows, sequences);
  options.max_sequences = sequences;
  return options;
}

// Slots as the engine counts them, so that a plan says what a server then does.
void CountSlotsAsRunnersDo(const PlanOffloadFlags& flags, const ModelSpec& spec,
                           OffloadRequest& request) {
  const std::optional<RunnerOptions> alone = OptionsOf(flags, 1);
  if (!alone) return;
  const auto budget = static_cast<uint64_t>(request.vram_budget);
  SlotsWithin(spec, *alone, budget);  // says the smallest that works
  request.slots = [&flags, &spec, budget](int sequences) {
    const RunnerOptions options = *OptionsOf(flags, sequences);
    return SmallestBudget(spec, options) > budget ? -1 : SlotsWithin(spec, options, budget);
  };
}

// By which the CPU computes experts of so many bits: those of fewer than 32 as bf16. Where the
// profile does not say, its memory alone bounds it.
double CpuFlops(const PlanOffloadFlags& flags, const HardwareProfile& profile) {
  const HardwareFigure flops = HostFlops(flags.expert_bits == 32 ? DType::kF32 : DType::kBF16);
  return (profile.*flops).value_or(std::numeric_limits<double>::infinity());
}

int RunOffload(const PlanOffloadFlags& flags) {
  ModelFlags asked = flags.model;
  asked.load_format = "dummy";  // a plan needs no weights
  const OpenedModel opened = OpenModel(asked);
  const ModelFootprint model =
      FootprintOf(opened.spec, flags.expert_bits, flags.weight_bits, flags.kv_bits);
  const HardwareProfile profile = ReadProfile(flags.hardware);
  OffloadRequest request{.vram_budget = Budget(flags.vram_budget, profile.gpu_memory,
                                               "--vram-budget", "gpu.memory_bytes"),
                         .ram_budget = Budget(flags.ram_budget, profile.host_memory, "--ram-budget",
                                              "host.memory_bytes"),
                         .context = flags.context,
                         .max_sequences = flags.max_num_seqs};
  if (flags.max_step_ms > 0) request.max_step_s = flags.max_step_ms / 1e3;
  if (flags.cpu_experts) request.cpu_flops = CpuFlops(flags, profile);
  std::optional<ExpertAccesses> accesses;
  if (!flags.trace.empty()) {
    accesses = ReadTrace(flags.trace, model);
    request.hit_rates =
        MeasureCurve(*accesses, *ParseCachePolicy(flags.cache_policy), kCurvePoints);
  }
  CountSlotsAsRunnersDo(flags, opened.spec, request);
  const OffloadPlan plan = SolveOffload(model, profile, request);
  const std::vector<OffloadStep> steps = StepsToShow(model, profile, request, plan);
  json::object caches;
  if (accesses) caches = CompareCaches(*accesses, plan.best.cached_experts);
  if (flags.json) {
    json::object report = DescribePlan(opened.name, model, profile, request, plan, steps);
    if (accesses) report["trace"] = std::move(caches);
    fmt::print("{}\n", json::serialize(report));
    return 0;
  }
  PrintPlan(flags, opened.name, model, profile, request, plan, steps);
  if (accesses) PrintCaches(caches);
  return 0;
}

void AddPlanOffloadFlags(CLI::App& command, PlanOffloadFlags& flags) {
  AddSpecFlags(command, flags.model);
  command
      .add_option("--hardware", flags.hardware, "Hardware profile, as those in configs/profiles")
      ->required();
  command.add_option("--vram-budget", flags.vram_budget,
                     "GPU memory to use, as 12GB; default: 90 % of the profile's");
  command.add_option("--ram-budget", flags.ram_budget,
                     "Host memory to use; experts beyond it are on disk; default: 90 % of the "
                     "profile's");
  command.add_option("--context", flags.context, "Positions a sequence holds")
      ->check(Quiet(CLI::Range(1, 1 << 24)));
  command.add_option("--max-num-seqs", flags.max_num_seqs, "Sequences to consider")
      ->check(Quiet(CLI::Range(1, 65536)));
  const auto bits = Quiet(CLI::Range(1.0, 32.0));
  command
      .add_option("--expert-bits", flags.expert_bits,
                  "Bits of an expert's weight with its scales, 4.5 for nf4 in blocks of 64")
      ->check(bits);
  command.add_option("--weight-bits", flags.weight_bits, "Bits of every other weight")->check(bits);
  command.add_option("--kv-bits", flags.kv_bits, "Bits of a key's or value's element")->check(bits);
  command
      .add_option("--max-step-ms", flags.max_step_ms,
                  "Longest step of decoding sequences alone; 0 = any")
      ->check(Quiet(CLI::NonNegativeNumber));
  command.add_flag("--cpu-experts", flags.cpu_experts,
                   "The CPU computes some of the missing experts while the link brings others, by "
                   "the profile's host.bf16_flops_per_s, or its memory alone where that is absent");
  command.add_option("--router-trace", flags.trace,
                     "Take the cache's hit rate from this trace; without, experts are alike");
  command.add_option("--cache-policy", flags.cache_policy, "lru, lfu or belady, for the trace")
      ->check(Quiet(CLI::IsMember({"lru", "lfu", "belady"})));
  command.add_flag("--json", flags.json, "Print every figure as JSON");
}

}  // namespace

Command AddPlanTheory(CLI::App& app) {
  auto flags = std::make_shared<TheoryFlags>();
  CLI::App* command = app.add_subcommand(
      "theory", "Expected distinct experts and tok/s by sequences, when experts cross a link");
  CLI::Option* given[] = {
      command->add_option("--experts", flags->theory.num_experts, "Experts of a layer"),
      command->add_option("--top-k", flags->theory.top_k, "Experts of a token"),
      command->add_option("--layers", flags->theory.num_layers, "Layers with experts"),
      command->add_option("--expert-ms", flags->theory.expert_ms, "To bring one expert"),
      command->add_option("--layer-ms", flags->theory.layer_ms,
                          "Of a layer's work that no transfer hides"),
      command->add_option("--sequence-ms", flags->theory.sequence_ms,
                          "The same for each sequence and layer")};
  CLI::Option* hardware =
      command->add_option("--hardware", flags->hardware,
                          "Take all of these from the layer that 'sluice profile' measured");
  for (CLI::Option* option : given) hardware->excludes(option);
  command->add_option("--sequences", flags->sequences, "Rows of the table, as 1 2 4")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command->add_flag("--json", flags->json, "Print the table as JSON");
  return [flags] { return RunTheory(*flags); };
}

Command AddPlanOffload(CLI::App& app) {
  auto flags = std::make_shared<PlanOffloadFlags>();
  CLI::App* command = app.add_subcommand(
      "offload", "Choose how many sequences share a step when experts live in host memory");
  AddPlanOffloadFlags(*command, *flags);
  return [flags] { return RunOffload(*flags); };
}

}  // namespace sluice
