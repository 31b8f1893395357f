#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <vector>

#include "plan/expert_map.h"
#include "plan/load_stats.h"
#include "study/load_counts.h"

namespace sluice {

struct LoadBalanceOptions {
  int ranks = 8;            // of expert parallelism, with E / ranks neighbouring experts each
  double hot_factor = 2.0;  // an expert with this many times the mean is hot, with 1 / as much cold
};

// How a layer's load is spread over its experts and over ranks.
struct LayerLoad {
  int layer = 0;
  LoadStats experts;
  LoadStats ranks;
  std::vector<double> loads;       // tokens of each expert
  std::vector<double> rank_loads;  // tokens of each rank
  std::vector<int> hot;            // the most loaded first
  std::vector<int> cold;           // the least loaded first
};

// Of every layer that has load.
std::vector<LayerLoad> MeasureLayers(const LoadCounts& counts, const LoadBalanceOptions& options);

// One window of time, averaged over its layers.
struct WindowLoad {
  uint64_t first_step = 0;
  uint64_t last_step = 0;
  double max_over_mean = 0.0;       // of experts
  double rank_max_over_mean = 0.0;  // of ranks
  double gini = 0.0;                // of experts
  // Share of the top tenth of experts (at least one) that were there in the window before too; 1
  // for the first.
  double hot_kept = 0.0;
};
std::vector<WindowLoad> MeasureWindows(const std::vector<LoadCounts>& windows,
                                       const LoadBalanceOptions& options);

boost::json::object ToJson(const LoadStats& stats);
boost::json::array ToJson(const std::vector<LayerLoad>& layers);
boost::json::array ToJson(const std::vector<WindowLoad>& windows);

}  // namespace sluice
