#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/machine.h"
#include "base/thread_pool.h"
#include "bench/offload.h"
#include "cli/bench_report.h"
#include "cli/commands.h"
#include "cli/loaded_model.h"
#include "cli/model_flags.h"
#include "cli/offload_choice.h"
#include "engine/expert_budget.h"
#include "model/model_weights.h"
#include "offload/host_experts.h"
#include "plan/batch_theory.h"

namespace sluice {
namespace {

namespace json = boost::json;

struct BenchOffloadFlags {
  ModelFlags model;
  OffloadBenchOptions bench;
  int sequences = 0;  // 0 = the solver's
  std::string sweep;
  std::vector<std::string> caps;
  bool compare = false;
  bool ablation = false;
  bool check = false;
  int max_num_batched_tokens = 2048;
  std::string hardware;
  bool json = false;
};

// Sequences that the solver considers where no sweep goes farther.
constexpr int kMostSequences = 128;
// Of the toy on a CPU: a link that is slower than computing, and slots for a quarter of the
// experts.
constexpr char kToyLink[] = "1GB";
constexpr double kToyLatencyUs = 10.0;
constexpr int kToyShare = 4;

// One configuration.
struct Case {
  std::string name;
  int sequences = 1;
  OffloadFlags offload;
};

// What came of it.
struct Outcome {
  Case of;
  RunnerOptions options;  // with its slots
  OffloadRun run;
  ByteBound bound;
  std::string left_out;  // why it did not run; else empty
  std::string differs;   // from another outcome's tokens, with --check
};

// "1..128": powers of two; "1,3,8": these.
std::vector<int> ParseSweep(const std::string& text) {
  const auto fail = [&]() -> int {
    throw Error(ErrorCode::kInvalidArgument,
                "--sweep " + text + ": expected FIRST..LAST, doubling, or a list as 1,4,16");
  };
  const auto number = [&](const std::string& digits) {
    const bool sound = !digits.empty() && digits.size() <= 4 &&
                       digits.find_first_not_of("0123456789") == std::string::npos;
    const int value = sound ? std::stoi(digits) : fail();
    return value >= 1 && value <= 4096 ? value : fail();
  };
  std::vector<int> counts;
  if (const size_t dots = text.find(".."); dots != std::string::npos) {
    const int last = number(text.substr(dots + 2));
    for (int n = number(text.substr(0, dots)); n <= last; n *= 2) counts.push_back(n);
    if (counts.empty()) fail();
    return counts;
  }
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    counts.push_back(number(text.substr(begin, end - begin)));
    begin = end + 1;
  }
  return counts;
}

// Every configuration at one budget, and what they say together.
struct Budgeted {
  OffloadFlags offload;
  OffloadPlan plan;
  std::vector<Outcome> outcomes;
};

class OffloadBench {
 public:
  explicit OffloadBench(BenchOffloadFlags flags);

  const OpenedModel& model() const { return model_; }
  const RunnerOptions& options() const { return base_; }
  const HardwareProfile& machine() const { return machine_; }
  const ModelFootprint& footprint() const { return footprint_; }

  Budgeted RunBudget(const OffloadFlags& offload);

 private:
  RunnerOptions OptionsOf(const Case& run) const;
  std::vector<Case> CasesOf(const OffloadFlags& offload, const OffloadPlan& plan) const;
  Outcome Run(const Case& run);
  void HoldWeights();

  const BenchOffloadFlags flags_;
  const OpenedModel model_;
  RunnerOptions base_;  // of one sequence
  ModelFootprint footprint_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<CheckpointExperts> source_;
  // These two once for all runs.
  std::unique_ptr<ModelWeights> weights_;  // all but the experts
  std::unique_ptr<HostExperts> host_;      // null where slots are read from files
  HardwareProfile machine_;
  std::optional<OffloadRun> expected_;  // whose tokens all others are to have, at every budget
};

OffloadBench::OffloadBench(BenchOffloadFlags flags)
    : flags_(std::move(flags)), model_(OpenModel(flags_.model)) {
  if (model_.spec.NumMoeLayers() == 0) {
    throw Error(ErrorCode::kInvalidArgument,
                "'" + model_.name + "' is a dense model: it has no experts to bring");
  }
  base_ = OptionsOf({.sequences = 1, .offload = flags_.model.offload});
  footprint_ = FootprintOf(model_.spec, base_);
  HoldWeights();
  machine_ = OffloadMachine(model_, base_, flags_.hardware);
}

// What every run reads, where it computes and in the host tier. Budgets are the same for all but
// the slots.
void OffloadBench::HoldWeights() {
  OffloadFlags least = flags_.model.offload;
  least.expert_slots = kLeastExpertSlots;
  least.vram_budget.clear();
  least.policy = "pipeline";
  RunnerOptions options = OptionsOf({.sequences = 1, .offload = least});
  PlaceExperts(model_.spec, least, options);
  base_.offload.host_slots = options.offload.host_slots;
  CheckFits(model_.spec, options, EstimateMemory(model_.spec, options));
  pool_ = std::make_unique<ThreadPool>(base_.num_threads);
  std::optional<CudaStream> stream;
  if (base_.cuda) stream.emplace(*base_.cuda);
  weights_ = std::make_unique<ModelWeights>(model_.spec, *model_.source, base_.dtype, *pool_,
                                            OnBytesRead(), stream ? &*stream : nullptr);
  if (options.offload.host_slots == 0) return;
  const MemoryKind memory = base_.cuda ? MemoryKind::kPinned : MemoryKind::kHost;
  source_ = std::make_unique<CheckpointExperts>(model_.spec, *model_.source);
  host_ = std::make_unique<HostExperts>(
      ExpertLayoutOf(model_.spec, base_.dtype),
      ExpertSet(MoeLayers(model_.spec), model_.spec.moe.num_experts),
      HostExperts::Options{.num_slots = options.offload.host_slots, .memory = memory}, *source_,
      *pool_);
}

RunnerOptions OffloadBench::OptionsOf(const Case& run) const {
  ModelFlags flags = flags_.model;
  flags.offload = run.offload;
  RunnerOptions options = ResolveRunnerOptions(model_.spec, flags, {});
  const int positions = flags_.bench.Positions();
  if (positions > options.max_model_len) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("--input-len, --warmup-len and --output-len come to {} positions, the "
                            "model's context has {}",
                            positions, options.max_model_len));
  }
  options.max_model_len = positions;
  options.num_pages = run.sequences * (positions / options.page_size + 1);
  options.num_host_pages = 0;
  options.offload.prefill_layer_groups = 1;  // prompts come before what is measured
  options.max_sequences = run.sequences;
  const int64_t rows = int64_t{run.sequences} * flags_.bench.prompt_tokens;
  options.max_step_rows = std::max(
      run.sequences, static_cast<int>(std::min<int64_t>(rows, flags_.max_num_batched_tokens)));
  options.offload.shared_host = host_.get();
  options.shared_weights = weights_.get();
  return options;
}

std::vector<Case> OffloadBench::CasesOf(const OffloadFlags& offload,
                                        const OffloadPlan& plan) const {
  const int n = flags_.sequences > 0 ? flags_.sequences : plan.best.sequences;
  std::vector<Case> cases;
  const auto add = [&](std::string name, int sequences, OffloadFlags with) {
    const auto same = [&](const Case& one) {
      return one.name == name && one.sequences == sequences;
    };
    if (std::none_of(cases.begin(), cases.end(), same)) {
      cases.push_back({std::move(name), sequences, std::move(with)});
    }
  };
  const auto with_policy = [&](const char* policy) {
    OffloadFlags with = offload;
    with.policy = policy;
    if (with.policy == "on-demand") with.eviction = "lru";
    if (with.policy != "pipeline") with.cpu_experts = false;
    return with;
  };
  const OffloadFlags pipeline = with_policy("pipeline");
  const OffloadFlags on_demand = with_policy("on-demand");
  add("pipeline", 1, pipeline);
  std::set<int> counts = {n};
  if (!flags_.sweep.empty()) {
    counts.insert(plan.best.sequences);
    for (const int count : ParseSweep(flags_.sweep)) counts.insert(count);
    add("serial", 1, with_policy("serial"));
  }
  for (const int count : counts) add("pipeline", count, pipeline);
  if (flags_.compare) {
    add("on-demand", n, on_demand);
    add("serial", n, with_policy("serial"));
    add("serial", 1, with_policy("serial"));
    OffloadFlags resident = with_policy("resident");
    resident.vram_budget.clear();
    resident.expert_slots = 0;
    resident.ram_budget.clear();
    resident.link_bandwidth.clear();
    resident.link_latency_us = 0;
    add("resident", n, resident);
  }
  if (flags_.ablation) {
    OffloadFlags with = pipeline;
    with.cpu_experts = false;
    add("on-demand", 1, on_demand);
    add("on-demand", n, on_demand);
    with.prefetch = with.ready_first = false;
    add("+ overlap", n, with);
    with.prefetch = true;
    add("+ prefetch", n, with);
    with.ready_first = true;
    add("+ ready first", n, with);
    with.cpu_experts = true;
    add("+ CPU experts", n, with);
  }
  return cases;
}

Outcome OffloadBench::Run(const Case& run) {
  Outcome outcome{.of = run};
  ModelFlags flags = flags_.model;
  flags.offload = run.offload;
  try {
    const std::unique_ptr<ModelRunner> runner = LoadRunner(model_, flags, OptionsOf(run));
    outcome.options = runner->options();
    outcome.run = RunOffload(*runner, run.sequences, flags_.bench);
  } catch (const Error& error) {
    // A model that is not to fit, all of it, may well not.
    if (error.code() != ErrorCode::kResourceExhausted || run.offload.policy != "resident") throw;
    outcome.left_out = error.what();
    return outcome;
  }
  outcome.bound = BoundOf(outcome.run, footprint_, machine_, flags_.bench.Positions());
  return outcome;
}

Budgeted OffloadBench::RunBudget(const OffloadFlags& offload) {
  Budgeted result{.offload = offload};
  int most = kMostSequences;
  if (!flags_.sweep.empty()) {
    const std::vector<int> counts = ParseSweep(flags_.sweep);
    most = *std::max_element(counts.begin(), counts.end());
  }
  const auto options_of = [&](int sequences) -> std::optional<RunnerOptions> {
    RunnerOptions options = base_;
    options.expert_slots = offload.expert_slots;
    options.num_pages = sequences * base_.num_pages;
    options.max_sequences = sequences;
    const int64_t rows = int64_t{sequences} * flags_.bench.prompt_tokens;
    options.max_step_rows = std::max(
        sequences, static_cast<int>(std::min<int64_t>(rows, flags_.max_num_batched_tokens)));
    return options;
  };
  result.plan = SolveOffload(
      footprint_, machine_,
      RequestFor(model_.spec, offload, machine_, options_of, flags_.bench.Positions(), most));
  for (const Case& run : CasesOf(offload, result.plan)) {
    Outcome outcome = Run(run);
    // CPU and GPU do not round alike.
    const bool rounds_alike = !run.offload.cpu_experts || !base_.cuda;
    if (flags_.check && outcome.left_out.empty() && rounds_alike) {
      if (!expected_) expected_ = outcome.run;
      outcome.differs = FirstDifference(*expected_, outcome.run);
    }
    result.outcomes.push_back(std::move(outcome));
  }
  return result;
}

const Outcome* Find(const Budgeted& budget, const std::string& name, int sequences) {
  for (const Outcome& outcome : budget.outcomes) {
    const bool same = outcome.of.name == name && outcome.of.sequences == sequences;
    if (same && outcome.left_out.empty()) return &outcome;
  }
  return nullptr;
}

// The outcome's tokens a second over another's; null where there is none.
json::value Over(const Outcome& outcome, const Outcome* other) {
  if (other == nullptr) return nullptr;
  return outcome.run.TokensPerSecond() / other->run.TokensPerSecond();
}

// The bare arithmetic of transfers, with the time that one expert takes over the machine's link.
BatchTheoryRow Theory(const ModelFootprint& model, const HardwareProfile& machine, int sequences) {
  const BatchTheory theory{.num_experts = model.num_experts,
                           .top_k = model.top_k,
                           .num_layers = model.moe_layers,
                           .expert_ms = 1e3 * model.expert_bytes / *machine.link_bandwidth};
  return EvaluateTheory(theory, std::vector{sequences}).front();
}

json::object Describe(const OffloadBench& bench, const Budgeted& budget, const Outcome& outcome) {
  const OffloadFlags& with = outcome.of.offload;
  json::object row{{"name", outcome.of.name},         {"sequences", outcome.of.sequences},
                   {"policy", with.policy},           {"eviction", with.eviction},
                   {"prefetch", with.prefetch},       {"ready_first", with.ready_first},
                   {"cpu_experts", with.cpu_experts}, {"batch_groups", with.batch_groups}};
  if (!outcome.left_out.empty()) {
    row["left_out"] = outcome.left_out;
    return row;
  }
  row["expert_slots"] = outcome.options.expert_slots > 0
                            ? outcome.options.expert_slots
                            : ExpertsInAll(bench.model().spec, outcome.options);
  row["over_one"] = Over(outcome, Find(budget, outcome.of.name, 1));
  row["over_serial"] = Over(outcome, Find(budget, "serial", outcome.of.sequences));
  row["over_serial_one"] = Over(outcome, Find(budget, "serial", 1));
  const BatchTheoryRow theory = Theory(bench.footprint(), bench.machine(), outcome.of.sequences);
  row["theory_tokens_per_s"] = theory.tokens_per_s;
  row["theory_over_one"] = theory.speedup;
  const json::object figures = ToJson(outcome.run, outcome.bound);
  row.insert(figures.begin(), figures.end());
  if (!outcome.differs.empty()) row["tokens_differ"] = outcome.differs;
  return row;
}

// What the solver takes, beside the best of the pipeline's runs.
json::object DescribeChoice(const Budgeted& budget) {
  const Outcome* best = nullptr;
  for (const Outcome& outcome : budget.outcomes) {
    if (outcome.of.name != "pipeline") continue;
    const bool better =
        best == nullptr || outcome.run.TokensPerSecond() > best->run.TokensPerSecond();
    if (better) best = &outcome;
  }
  const OffloadStep& step = budget.plan.best;
  const Outcome* chosen = Find(budget, "pipeline", step.sequences);
  json::object choice{{"sequences", step.sequences},
                      {"bound", step.bound},
                      {"hit_rate", step.hit_rate},
                      {"tokens_per_s_planned", step.tokens_per_s},
                      {"memory_limit", budget.plan.memory_limit},
                      {"best_sequences", best->of.sequences},
                      {"best_tokens_per_s", best->run.TokensPerSecond()}};
  choice["share_of_best"] = chosen == nullptr ? json::value(nullptr) : Over(*chosen, best);
  return choice;
}

json::object Describe(const OffloadBench& bench, const Budgeted& budget) {
  json::array rows;
  for (const Outcome& outcome : budget.outcomes) rows.push_back(Describe(bench, budget, outcome));
  json::object described{
      {"vram_budget", nullptr}, {"solver", DescribeChoice(budget)}, {"rows", std::move(rows)}};
  if (const auto bytes = VramBudget(budget.offload)) described["vram_budget"] = *bytes;
  return described;
}

double Number(const json::object& row, const char* key) {
  return row.at(key).to_number<double>();
}

std::string Times(const json::value& ratio) {
  return ratio.is_null() ? "" : fmt::format("{:.2f}x", ratio.to_number<double>());
}

void PrintRow(const json::object& row) {
  const std::string name(row.at("name").as_string());
  const auto sequences = row.at("sequences").to_number<int>();
  if (const json::value* why = row.if_contains("left_out")) {
    fmt::print("  {:<14}{:>4}  left out: {}\n", name, sequences, std::string(why->as_string()));
    return;
  }
  const auto percent = [&](const char* key) { return 100 * Number(row, key); };
  std::string notes;
  if (row.contains("tokens_differ")) {
    notes += "  TOKENS DIFFER: " + std::string(row.at("tokens_differ").as_string());
  }
  if (percent("stolen_share") >= 1.0) {
    notes += fmt::format("  ({:.0f} % of the cores' time taken away)", percent("stolen_share"));
  }
  fmt::print(
      "  {:<14}{:>4}{:>7}{:>10.1f}{:>9}{:>8}{:>9}{:>7.1f}{:>7.1f}{:>7.1f}{:>8.2f}{:>7.1f}{:>9.2f}"
      "{:>9.2f}{:>10.1f}{:>7.1f}  {}{}\n",
      name, sequences, row.at("expert_slots").to_number<int>(), Number(row, "tokens_per_s"),
      Times(row.at("over_one")), Times(row.at("theory_over_one")), Times(row.at("over_serial_one")),
      percent("hit_rate"), percent("forecast_hit_rate"), percent("prefetch_used_share"),
      Number(row, "link_bytes_per_s") / 1e9, percent("link_busy_share"),
      Number(row, "wait_between_ms"), Number(row, "wait_within_ms"),
      Number(row, "bound_tokens_per_s"), percent("share_of_bound"),
      std::string(row.at("bound").as_string()), notes);
}

void PrintBudget(const json::object& budget) {
  if (!budget.at("vram_budget").is_null()) {
    fmt::print("budget {}\n", FormatBytes(budget.at("vram_budget").to_number<uint64_t>()));
  }
  fmt::print(
      "  {:<14}{:>4}{:>7}{:>10}{:>9}{:>8}{:>9}{:>7}{:>7}{:>7}{:>8}{:>7}{:>9}{:>9}{:>10}{:>7}"
      "  {}\n",
      "", "n", "slots", "tok/s", "of n=1", "theory", "serial", "hit %", "told %", "used %", "GB/s",
      "busy %", "between", "within", "bound", "% of", "bound by");
  for (const json::value& row : budget.at("rows").as_array()) PrintRow(row.as_object());
  const json::object& solver = budget.at("solver").as_object();
  fmt::print("  the solver takes n = {}, bound by the {}: ",
             solver.at("sequences").to_number<int>(), std::string(solver.at("bound").as_string()));
  if (solver.at("share_of_best").is_null()) {
    fmt::print("not run\n");
  } else {
    fmt::print("{:.1f} % of the best, which is n = {}\n", 100 * Number(solver, "share_of_best"),
               solver.at("best_sequences").to_number<int>());
  }
}

void Print(const OffloadBench& bench, const BenchOffloadFlags& flags, const json::object& figures) {
  const HardwareProfile& machine = bench.machine();
  const auto rate = [](const std::optional<double>& figure) {
    return FormatBytes(static_cast<uint64_t>(figure.value_or(0))) + "/s";
  };
  fmt::print("{} {} on {}, {} in, {} out, routing {}{}\n", bench.model().name,
             DTypeName(bench.options().dtype), Machine(bench.options()), flags.bench.prompt_tokens,
             flags.bench.output_tokens, flags.model.routing,
             bench.model().random_weights ? ", random weights" : "");
  fmt::print("an expert {}, link {}, host memory {}, where it computes {}; waits are ms a step\n",
             FormatBytes(static_cast<uint64_t>(bench.footprint().expert_bytes)),
             rate(machine.link_bandwidth), rate(machine.host_bandwidth),
             rate(machine.gpu_bandwidth));
  bool differ = false;
  for (const json::value& budget : figures.at("budgets").as_array()) {
    PrintBudget(budget.as_object());
    for (const json::value& row : budget.at("rows").as_array()) {
      differ = differ || row.as_object().contains("tokens_differ");
    }
  }
  if (!flags.check || differ) return;
  const bool all = !bench.options().cuda || !(flags.ablation || flags.model.offload.cpu_experts);
  fmt::print("checked: the same tokens in every row{}\n",
             all ? "" : " but those with CPU experts, which do not round alike");
}

// On the CPU without a word about slots and link: the toy.
void SetDefaults(const OpenedModel& model, BenchOffloadFlags& flags) {
  OffloadFlags& offload = flags.model.offload;
  const bool bounded = offload.expert_slots > 0 || !offload.vram_budget.empty();
  const bool cpu = !ChooseCuda(flags.model).has_value();
  if (cpu && offload.link_bandwidth.empty() && offload.link_latency_us == 0) {
    offload.link_bandwidth = kToyLink;
    offload.link_latency_us = kToyLatencyUs;
  }
  if (!flags.caps.empty()) {
    if (bounded) {
      throw Error(ErrorCode::kInvalidArgument,
                  "--caps are several --vram-budget: leave that and --expert-slots out");
    }
    offload.vram_budget = flags.caps.front();
  } else if (!bounded && cpu) {
    offload.expert_slots = std::max(
        kLeastExpertSlots, model.spec.NumMoeLayers() * model.spec.moe.num_experts / kToyShare);
  } else if (!bounded) {
    throw Error(ErrorCode::kInvalidArgument,
                "say how much of the GPU's memory experts may take: --vram-budget 12GB, --caps "
                "12GB,24GB or --expert-slots N");
  }
}

int RunBenchOffload(BenchOffloadFlags flags) {
  ModelFlags shapes = flags.model;
  shapes.load_format = "dummy";
  SetDefaults(OpenModel(shapes), flags);
  OffloadBench bench(flags);
  std::string differs;
  const auto measure = [&] {
    std::vector<OffloadFlags> budgets;
    for (const std::string& cap : flags.caps) {
      budgets.push_back(flags.model.offload);
      budgets.back().vram_budget = cap;
    }
    if (budgets.empty()) budgets.push_back(flags.model.offload);
    json::array described;
    for (const OffloadFlags& offload : budgets) {
      const Budgeted budget = bench.RunBudget(offload);
      for (const Outcome& outcome : budget.outcomes) {
        if (!outcome.differs.empty()) differs = outcome.of.name + ": " + outcome.differs;
      }
      described.push_back(Describe(bench, budget));
    }
    return json::object{{"input_len", flags.bench.prompt_tokens},
                        {"warmup_len", flags.bench.warmup_tokens},
                        {"output_len", flags.bench.output_tokens},
                        {"expert_bytes", bench.footprint().expert_bytes},
                        {"host_slots", bench.options().offload.host_slots},
                        {"hardware", ToJson(bench.machine())},
                        {"checked", flags.check},
                        {"budgets", std::move(described)}};
  };
  ReportBench({.model = bench.model(),
               .options = bench.options(),
               .stream = nullptr,
               .routing = flags.model.routing,
               .random_weights = bench.model().random_weights},
              flags.json, measure,
              [&](const json::object& figures) { Print(bench, flags, figures); });
  if (differs.empty()) return 0;
  fmt::print(stderr, "sluice: tokens differ between rows: {}\n", differs);
  return 1;
}

}  // namespace

Command AddBenchOffload(CLI::App& app) {
  auto flags = std::make_shared<BenchOffloadFlags>();
  CLI::App* command = app.add_subcommand(
      "offload", "Decode a model whose experts do not fit, in several ways, beside its byte bound");
  AddModelFlags(*command, flags->model);
  const char* group = "Offload benchmark";
  command
      ->add_option("--n,--max-num-seqs", flags->sequences,
                   "Sequences that decode together; 0 = as the solver chooses")
      ->check(Quiet(CLI::Range(0, 4096)))
      ->group(group);
  command
      ->add_option("--sweep", flags->sweep,
                   "These n, as 1..128 (doubling) or 1,4,16, and the serial baseline")
      ->group(group);
  command->add_option("--caps", flags->caps, "Everything once for each --vram-budget, as 12GB,24GB")
      ->delimiter(',')
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->group(group);
  command
      ->add_flag(
          "--compare", flags->compare,
          "Beside the pipeline: on demand with LRU, serial by whole layers, together and one "
          "sequence at a time, and all resident where that fits")
      ->group(group);
  command
      ->add_flag("--ablation", flags->ablation,
                 "A row a step: on demand, n together, overlapped, with prefetch, as they come, "
                 "with CPU experts")
      ->group(group);
  command->add_flag("--check", flags->check, "Fail where greedy tokens differ between rows")
      ->group(group);
  const auto count = Quiet(CLI::Range(1, 1 << 20));
  command->add_option("--input-len", flags->bench.prompt_tokens, "Prompt tokens a sequence")
      ->check(count)
      ->group(group);
  command
      ->add_option("--warmup-len", flags->bench.warmup_tokens,
                   "Tokens to make before the clock runs: slots fill meanwhile")
      ->check(Quiet(CLI::Range(0, 1 << 20)))
      ->group(group);
  command->add_option("--output-len", flags->bench.output_tokens, "Tokens to time a sequence")
      ->check(count)
      ->group(group);
  command
      ->add_option("--max-num-batched-tokens", flags->max_num_batched_tokens,
                   "Tokens of one step of prefill")
      ->check(count)
      ->group(group);
  command
      ->add_option("--hardware", flags->hardware,
                   "Profile of this machine, by 'sluice profile'; default: measured at the start")
      ->group(group);
  command->add_flag("--json", flags->json, "Print every figure as JSON")->group(group);
  return [flags] { return RunBenchOffload(*flags); };
}

}  // namespace sluice
