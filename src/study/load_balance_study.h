#pragma once

#include <boost/json/object.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "study/coactivation.h"
#include "study/load_balance.h"
#include "study/placement_replay.h"

namespace sluice {

struct LoadBalanceRequest {
  LoadBalanceOptions balance;
  uint64_t window_steps = 1;  // to begin with; see WindowedCounts
  bool coactivation = true;
  size_t pairs = 10;         // that co-activation lists
  int slots_per_rank = 0;    // of a layer; 0: one more than experts / ranks
  int max_moves = 1 << 30;   // of migration, in each layer
  uint64_t learn_steps = 0;  // placements are made for the first so many steps and judged by the
                             // others; 0: made for all and judged by all
  ExpertCost cost;
};

struct PlacementResult {
  std::string name;
  int moved = 0;
  PlacementCost cost;
};

struct LoadBalanceReport {
  RouterTraceHeader header;
  std::vector<LayerLoad> layers;
  std::vector<WindowLoad> windows;
  uint64_t steps_per_window = 0;  // their mean, where windows differ
  std::optional<CoActivation> coactivation;
  int slots_per_rank = 0;
  std::vector<PlacementResult> placements;  // the contiguous one first
};

// Opens the run from its beginning, each time that it is called.
using OpenSource = std::function<std::unique_ptr<BatchSource>()>;

// Reads the run twice: to count, and to judge the placements that the counts suggest. Memory does
// not grow with its length. Throws what the source throws, and Error(kInvalidArgument) for a run
// without records or with no steps left to judge by.
LoadBalanceReport StudyLoadBalance(const OpenSource& open, const LoadBalanceRequest& request);

// The same for loads that were counted elsewhere, over one window of steps or several of the same
// layers and experts: no co-activation, and placements judged as CostOfCounts does. Those to learn
// from are the windows that end within request.learn_steps of the first's beginning.
LoadBalanceReport StudyCounts(const RouterTraceHeader& header,
                              const std::vector<LoadCounts>& windows,
                              const LoadBalanceRequest& request);

boost::json::object ToJson(const LoadBalanceReport& report, size_t pairs);

}  // namespace sluice
