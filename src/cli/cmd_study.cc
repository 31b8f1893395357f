#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json/serialize.hpp>
#include <chrono>
#include <memory>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/loaded_model.h"
#include "cli/model_flags.h"
#include "cli/trace_flags.h"
#include "plan/hardware_profile.h"
#include "plan/offload_plan.h"
#include "study/load_balance_study.h"
#include "study/server_load.h"

namespace sluice {
namespace {

namespace json = boost::json;

struct LoadBalanceFlags {
  RunFlags run;
  std::string counts;
  std::string server;
  int windows = 12;
  double window_s = 5.0;
  LoadBalanceRequest request;
  ModelFlags model;
  std::string hardware;
  double expert_bits = 16.0;
  std::string rank_memory;
  bool no_coactivation = false;
  bool json = false;
};

// What --model and --hardware say about the time and the memory of an expert.
void UseModel(const LoadBalanceFlags& flags, LoadBalanceRequest& request) {
  if (flags.model.model.empty()) {
    if (flags.hardware.empty() && flags.rank_memory.empty()) return;
    throw Error(ErrorCode::kInvalidArgument,
                "--hardware and --rank-memory need --model, whose experts they are for");
  }
  ModelFlags asked = flags.model;
  asked.load_format = "dummy";
  const OpenedModel opened = OpenModel(asked);
  const ModelFootprint model = FootprintOf(opened.spec, flags.expert_bits, 16.0, 16.0);
  if (!flags.rank_memory.empty()) {
    const double a_slot = model.expert_bytes * model.moe_layers;
    request.slots_per_rank =
        static_cast<int>(static_cast<double>(ParseBytes(flags.rank_memory)) / a_slot);
    if (request.slots_per_rank == 0) {
      throw Error(ErrorCode::kResourceExhausted,
                  "--rank-memory " + flags.rank_memory + " holds not one expert of each layer");
    }
  }
  if (flags.hardware.empty()) return;
  const HardwareProfile profile = ReadProfile(flags.hardware);
  const HardwareFigure needed[] = {&HardwareProfile::gpu_bandwidth, &HardwareProfile::gpu_flops};
  RequireFigures(profile, needed, "the time of an expert");
  const double weights = model.expert_bytes * 8.0 / flags.expert_bits;
  request.cost = {.weights_s = model.expert_bytes / *profile.gpu_bandwidth,
                  .token_s = 2.0 * weights / *profile.gpu_flops};
}

std::string FirstOf(const std::vector<int>& experts, size_t count) {
  std::string text;
  for (size_t i = 0; i < std::min(count, experts.size()); ++i) {
    text += fmt::format("{}{}", i == 0 ? "" : " ", experts[i]);
  }
  return text + (experts.size() > count ? " ..." : "");
}

void PrintLayers(const LoadBalanceReport& report) {
  fmt::print("{:>5}  {:>8}  {:>6}  {:>6}  {:>8}  {:>14}  {:>4}  {:>4}  {}\n", "layer", "max/mean",
             "CV", "Gini", "evenness", "ranks max/mean", "hot", "cold", "hottest");
  for (const LayerLoad& layer : report.layers) {
    fmt::print("{:>5}  {:>8.2f}  {:>6.3f}  {:>6.3f}  {:>8.3f}  {:>14.2f}  {:>4}  {:>4}  {}\n",
               layer.layer, layer.experts.max_over_mean, layer.experts.cv, layer.experts.gini,
               layer.experts.evenness, layer.ranks.max_over_mean, layer.hot.size(),
               layer.cold.size(), FirstOf(layer.hot, 6));
  }
}

void PrintWindows(const LoadBalanceReport& report) {
  if (report.windows.size() < 2) return;
  const auto [low, high] = std::minmax_element(
      report.windows.begin(), report.windows.end(),
      [](const WindowLoad& a, const WindowLoad& b) { return a.max_over_mean < b.max_over_mean; });
  double kept = 0.0;
  for (size_t w = 1; w < report.windows.size(); ++w) kept += report.windows[w].hot_kept;
  fmt::print(
      "windows of {} steps: max/mean {:.2f} to {:.2f}; {:.0f} % of the top tenth of experts "
      "stay from one to the next\n",
      report.steps_per_window, low->max_over_mean, high->max_over_mean,
      100 * kept / static_cast<double>(report.windows.size() - 1));
}

void PrintPairs(const char* title, const std::vector<ExpertPair>& pairs) {
  fmt::print("{}", title);
  for (const ExpertPair& pair : pairs) {
    if (pair.layer == pair.next_layer) {
      fmt::print("  {}:{}+{}", pair.layer, pair.first, pair.second);
    } else {
      fmt::print("  {}:{}>{}:{}", pair.layer, pair.first, pair.next_layer, pair.second);
    }
    fmt::print(" ({:.1f}x)", pair.lift);
  }
  fmt::print("\n");
}

void PrintPlacements(const LoadBalanceReport& report, bool in_seconds) {
  fmt::print("{} slots a rank and layer\n", report.slots_per_rank);
  fmt::print("{:>11}  {:>8}  {:>14}  {:>8}  {:>13}\n", "placement",
             in_seconds ? "ms/step" : "tok/step", "of contiguous", "max/mean", "experts moved");
  for (const PlacementResult& placement : report.placements) {
    fmt::print("{:>11}  {:>8.3f}  {:>12.1f} %  {:>8.2f}  {:>13}\n", placement.name,
               placement.cost.expert_s * (in_seconds ? 1e3 : 1.0),
               100 * placement.cost.expert_s / report.placements[0].cost.expert_s,
               placement.cost.max_over_mean, placement.moved);
  }
  fmt::print("{:>11}  {:>8.3f}  {:>12.1f} %  {:>8.2f}\n", "even",
             report.placements[0].cost.even_s * (in_seconds ? 1e3 : 1.0),
             100 * report.placements[0].cost.even_s / report.placements[0].cost.expert_s, 1.0);
}

LoadBalanceReport StudyServer(const LoadBalanceFlags& flags, const LoadBalanceRequest& request) {
  const WatchOptions options{.windows = flags.windows,
                             .window = std::chrono::duration<double>(flags.window_s)};
  spdlog::info("watching {} for {:g} s", flags.server, flags.windows * flags.window_s);
  const WatchedLoad watched = WatchServer([&flags] { return FetchMetrics(flags.server); }, options);
  const LoadCounts& first = watched.windows.front();
  return StudyCounts({.model = watched.model,
                      .num_layers = first.num_layers,
                      .num_experts = first.num_experts,
                      .source = flags.server},
                     watched.windows, request);
}

LoadBalanceReport StudyCsv(const std::string& file, const LoadBalanceRequest& request) {
  const LoadCounts counts = ReadCountsCsv(file);
  return StudyCounts({.model = "counts",
                      .num_layers = counts.num_layers,
                      .num_experts = counts.num_experts,
                      .source = "counts"},
                     {counts}, request);
}

LoadBalanceReport StudyWhatIsNamed(const LoadBalanceFlags& flags,
                                   const LoadBalanceRequest& request) {
  const bool is_run = !flags.run.trace.empty() || !flags.run.synthetic.source.empty();
  if (int{is_run} + int{!flags.counts.empty()} + int{!flags.server.empty()} > 1) {
    throw Error(ErrorCode::kInvalidArgument,
                "name one thing to study: a trace, --source, --counts or --server");
  }
  if (!flags.server.empty()) return StudyServer(flags, request);
  if (!flags.counts.empty()) return StudyCsv(flags.counts, request);
  return StudyLoadBalance(OpenRun(flags.run), request);
}

int RunLoadBalance(const LoadBalanceFlags& flags) {
  LoadBalanceRequest request = flags.request;
  request.coactivation = !flags.no_coactivation;
  UseModel(flags, request);
  const LoadBalanceReport report = StudyWhatIsNamed(flags, request);
  if (flags.json) {
    json::object object = ToJson(report, request.pairs);
    object["ranks"] = request.balance.ranks;
    object["expert_weights_s"] = request.cost.weights_s;
    object["expert_token_s"] = request.cost.token_s;
    fmt::print("{}\n", json::serialize(object));
    return 0;
  }
  fmt::print("{}, routed by {}: {} experts, {} ranks\n", report.header.model, report.header.source,
             report.header.num_experts, request.balance.ranks);
  PrintLayers(report);
  PrintWindows(report);
  if (report.coactivation) {
    PrintPairs("most chosen together:", report.coactivation->MostWithin(5));
    PrintPairs("most chosen in turn:", report.coactivation->MostAcross(5));
  }
  PrintPlacements(report, !flags.hardware.empty());
  return 0;
}

void AddLoadBalanceFlags(CLI::App& command, LoadBalanceFlags& flags) {
  AddRunFlags(command, flags.run);
  LoadBalanceRequest& request = flags.request;
  command.add_option("--counts", flags.counts,
                     "CSV of tokens, a line for each layer and a field for each expert, instead of "
                     "a run");
  const char* live = "Live server";
  command
      .add_option("--server", flags.server,
                  "Watch a server that was started with --expert-load, as http://127.0.0.1:8000, "
                  "instead of a run")
      ->group(live);
  command.add_option("--windows", flags.windows, "Windows of time to watch it for")
      ->check(Quiet(CLI::Range(1, 100000)))
      ->group(live);
  command.add_option("--window-s", flags.window_s, "Seconds of a window")
      ->check(Quiet(CLI::Range(0.01, 86400.0)))
      ->group(live);
  command.add_option("--ranks", request.balance.ranks, "Ranks that share the experts")
      ->check(Quiet(CLI::Range(1, 4096)));
  command
      .add_option("--hot-factor", request.balance.hot_factor,
                  "Times the mean from which an expert is hot, below 1 / of which cold")
      ->check(Quiet(CLI::Range(1.0, 1e6)));
  command
      .add_option("--window", request.window_steps,
                  "Steps of a window of time; doubled until there are at most 64")
      ->check(Quiet(CLI::Range(1, 1 << 30)));
  command.add_option("--pairs", request.pairs, "Pairs of experts to list in --json");
  command.add_flag("--no-coactivation", flags.no_coactivation, "Leave pairs of experts out");
  const char* group = "Rebalancing";
  command
      .add_option("--slots-per-rank", request.slots_per_rank,
                  "Experts of a layer that a rank holds; 0 = one more than its share")
      ->check(Quiet(CLI::NonNegativeNumber))
      ->group(group);
  command
      .add_option("--rank-memory", flags.rank_memory,
                  "The same as memory for experts of all layers, as 40GB; needs --model")
      ->group(group);
  command.add_option("--max-moves", request.max_moves, "Experts of a layer that migration moves")
      ->check(Quiet(CLI::NonNegativeNumber))
      ->group(group);
  command
      .add_option("--learn-steps", request.learn_steps,
                  "Make placements from the first so many steps, judge them by the others; 0 = "
                  "by all and all")
      ->group(group);
  command.add_option("--model", flags.model.model, "Model whose experts they are, for times")
      ->group(group);
  command.add_option("--hardware", flags.hardware, "Hardware profile, for times; needs --model")
      ->group(group);
  command.add_option("--expert-bits", flags.expert_bits, "Bits of an expert's weight")
      ->check(Quiet(CLI::Range(1.0, 32.0)))
      ->group(group);
  command.add_flag("--json", flags.json, "Print every figure as JSON");
}

}  // namespace

Command AddStudyLoadBalance(CLI::App& app) {
  auto flags = std::make_shared<LoadBalanceFlags>();
  CLI::App* command = app.add_subcommand(
      "load-balance", "How evenly experts and ranks are loaded, and what rebalancing would gain");
  AddLoadBalanceFlags(*command, *flags);
  return [flags] { return RunLoadBalance(*flags); };
}

}  // namespace sluice
