#include "study/load_balance_study.h"

#include <span>
#include <string>
#include <utility>

#include "base/error.h"

namespace sluice {
namespace {

namespace json = boost::json;

// Says of batches in their order whether they are of the first so many steps.
class FirstSteps {
 public:
  explicit FirstSteps(uint64_t count) : count_(count) {}
  bool Has(const RouterBatch& batch) {
    if (seen_ == 0 || batch.step != last_) ++seen_;
    last_ = batch.step;
    return seen_ <= count_;
  }

 private:
  uint64_t count_;
  uint64_t seen_ = 0;
  uint64_t last_ = 0;
};

// The loads that placements are made for.
LoadCounts Measure(BatchSource& source, const LoadBalanceRequest& request,
                   LoadBalanceReport& report) {
  const RouterTraceHeader& header = report.header;
  WindowedCounts windows(header.num_layers, header.num_experts, request.window_steps);
  LoadCounts learned = LoadCounts::Zero(header.num_layers, header.num_experts);
  if (request.coactivation) report.coactivation.emplace(header);
  FirstSteps learning(request.learn_steps);
  RouterBatch batch;
  while (source.NextBatch(batch)) {
    windows.Add(batch);
    if (learning.Has(batch)) learned.Add(batch);
    if (report.coactivation) report.coactivation->Add(batch);
  }
  const LoadCounts total = windows.Total();
  report.layers = MeasureLayers(total, request.balance);
  report.windows = MeasureWindows(windows.windows(), request.balance);
  report.steps_per_window = windows.steps_per_window();
  return request.learn_steps == 0 ? total : learned;
}

int SlotsOf(const LoadCounts& loads, const LoadBalanceRequest& request) {
  if (request.slots_per_rank > 0) return request.slots_per_rank;
  return ContiguousMap(loads.num_experts, request.balance.ranks).MostExperts() + 1;
}

[[noreturn]] void FailEmpty() {
  throw Error(ErrorCode::kInvalidArgument, "there is no load to study: every count is 0");
}

[[noreturn]] void FailLearning(uint64_t steps) {
  throw Error(ErrorCode::kInvalidArgument, "the run ends within the " + std::to_string(steps) +
                                               " steps to learn from; none are left to judge by");
}

LoadCounts Sum(std::span<const LoadCounts> windows) {
  LoadCounts sum = windows.front();
  for (const LoadCounts& window : windows.subspan(1)) sum.Add(window);
  return sum;
}

// How many of the windows end within the first `steps`; 0 of none.
size_t WindowsToLearnFrom(std::span<const LoadCounts> windows, uint64_t steps) {
  if (steps == 0) return 0;
  size_t count = 0;
  while (count < windows.size() && windows[count].last_step - windows.front().first_step < steps) {
    ++count;
  }
  if (count == windows.size()) FailLearning(steps);
  if (count == 0) {
    const LoadCounts& first = windows.front();
    throw Error(ErrorCode::kInvalidArgument,
                "no window ends within the " + std::to_string(steps) +
                    " steps to learn from: the first has " +
                    std::to_string(first.last_step - first.first_step + 1));
  }
  return count;
}

void Judge(BatchSource& source, const LoadBalanceRequest& request, PlacementReplay& replay) {
  FirstSteps learning(request.learn_steps);
  bool any = false;
  RouterBatch batch;
  while (source.NextBatch(batch)) {
    if (learning.Has(batch)) continue;
    replay.Add(batch);
    any = true;
  }
  if (!any) FailLearning(request.learn_steps);
}

}  // namespace

LoadBalanceReport StudyLoadBalance(const OpenSource& open, const LoadBalanceRequest& request) {
  std::unique_ptr<BatchSource> source = open();
  LoadBalanceReport report{.header = source->header()};
  const LoadCounts loads = Measure(*source, request, report);
  if (report.layers.empty()) FailEmpty();
  report.slots_per_rank = SlotsOf(loads, request);
  PlacementReplay replay(MakePlacements(loads, request.balance.ranks, report.slots_per_rank,
                                        request.max_moves, request.cost),
                         request.cost);
  source = open();
  Judge(*source, request, replay);
  const std::vector<PlacementCost> costs = replay.Costs();
  for (size_t p = 0; p < costs.size(); ++p) {
    const Placement& placement = replay.placements()[p];
    report.placements.push_back(
        {.name = placement.name, .moved = placement.moved, .cost = costs[p]});
  }
  return report;
}

LoadBalanceReport StudyCounts(const RouterTraceHeader& header,
                              const std::vector<LoadCounts>& windows,
                              const LoadBalanceRequest& request) {
  LoadBalanceReport report{.header = header};
  if (windows.empty()) FailEmpty();
  const LoadCounts total = Sum(windows);
  report.layers = MeasureLayers(total, request.balance);
  if (report.layers.empty()) FailEmpty();
  report.windows = MeasureWindows(windows, request.balance);
  report.steps_per_window = (total.last_step - total.first_step + 1) / windows.size();
  report.slots_per_rank = SlotsOf(total, request);
  const size_t learned = WindowsToLearnFrom(windows, request.learn_steps);
  const std::span<const LoadCounts> all(windows);
  const LoadCounts loads = learned == 0 ? total : Sum(all.first(learned));
  for (const Placement& placement : MakePlacements(
           loads, request.balance.ranks, report.slots_per_rank, request.max_moves, request.cost)) {
    report.placements.push_back(
        {.name = placement.name,
         .moved = placement.moved,
         .cost = CostOfCounts(placement, all.subspan(learned), request.cost)});
  }
  return report;
}

json::object ToJson(const LoadBalanceReport& report, size_t pairs) {
  json::object object{
      {"model", report.header.model},         {"source", report.header.source},
      {"experts", report.header.num_experts}, {"top_k", report.header.top_k},
      {"layers", ToJson(report.layers)},      {"steps_per_window", report.steps_per_window},
      {"windows", ToJson(report.windows)},    {"slots_per_rank", report.slots_per_rank}};
  if (report.coactivation) {
    object["coactivation"] =
        json::object{{"within", ToJson(report.coactivation->MostWithin(pairs))},
                     {"across", ToJson(report.coactivation->MostAcross(pairs))},
                     {"followed_share", report.coactivation->FollowedShare()}};
  }
  json::array placements;
  for (const PlacementResult& placement : report.placements) {
    placements.push_back({{"name", placement.name},
                          {"moved_experts", placement.moved},
                          {"expert_s", placement.cost.expert_s},
                          {"even_s", placement.cost.even_s},
                          {"max_over_mean", placement.cost.max_over_mean}});
  }
  object["placements"] = std::move(placements);
  return object;
}

}  // namespace sluice
