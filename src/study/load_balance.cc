#include "study/load_balance.h"

#include <algorithm>
#include <boost/json/value_from.hpp>
#include <iterator>
#include <numeric>
#include <utility>

namespace sluice {
namespace {

namespace json = boost::json;

// Experts, the most loaded first; of equals, the lower id.
std::vector<int> ByLoad(const std::vector<double>& loads) {
  std::vector<int> order(loads.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return loads[a] > loads[b]; });
  return order;
}

void FindHotAndCold(const std::vector<double>& loads, double factor, LayerLoad& layer) {
  const std::vector<int> order = ByLoad(loads);
  for (const int expert : order) {
    if (loads[expert] >= factor * layer.experts.mean) layer.hot.push_back(expert);
  }
  for (auto expert = order.rbegin(); expert != order.rend(); ++expert) {
    if (loads[*expert] * factor <= layer.experts.mean) layer.cold.push_back(*expert);
  }
}

std::vector<int> TopTenth(const std::vector<double>& loads) {
  std::vector<int> order = ByLoad(loads);
  order.resize(std::max<size_t>(1, order.size() / 10));
  std::sort(order.begin(), order.end());
  return order;
}

// Share of `now` that is in `before`; both ascending and of one size.
double SharedPart(const std::vector<int>& now, const std::vector<int>& before) {
  std::vector<int> both;
  std::set_intersection(now.begin(), now.end(), before.begin(), before.end(),
                        std::back_inserter(both));
  return static_cast<double>(both.size()) / static_cast<double>(now.size());
}

}  // namespace

std::vector<LayerLoad> MeasureLayers(const LoadCounts& counts, const LoadBalanceOptions& options) {
  std::vector<LayerLoad> layers;
  if (counts.num_experts == 0) return layers;
  const ExpertMap map = ContiguousMap(counts.num_experts, options.ranks);
  for (int layer = 0; layer < counts.num_layers; ++layer) {
    if (!counts.HasLoad(layer)) continue;
    const std::vector<double> loads = counts.Loads(layer);
    LayerLoad measured{.layer = layer,
                       .experts = MeasureLoad(loads),
                       .loads = loads,
                       .rank_loads = RankLoads(map, loads)};
    measured.ranks = MeasureLoad(measured.rank_loads);
    FindHotAndCold(loads, options.hot_factor, measured);
    layers.push_back(std::move(measured));
  }
  return layers;
}

std::vector<WindowLoad> MeasureWindows(const std::vector<LoadCounts>& windows,
                                       const LoadBalanceOptions& options) {
  std::vector<WindowLoad> measured;
  for (size_t w = 0; w < windows.size(); ++w) {
    const std::vector<LayerLoad> layers = MeasureLayers(windows[w], options);
    const double share = 1.0 / static_cast<double>(layers.size());
    WindowLoad window{.first_step = windows[w].first_step, .last_step = windows[w].last_step};
    for (const LayerLoad& layer : layers) {
      window.max_over_mean += share * layer.experts.max_over_mean;
      window.rank_max_over_mean += share * layer.ranks.max_over_mean;
      window.gini += share * layer.experts.gini;
      const std::vector<int> hot = TopTenth(windows[w].Loads(layer.layer));
      window.hot_kept +=
          share * (w == 0 ? 1.0 : SharedPart(hot, TopTenth(windows[w - 1].Loads(layer.layer))));
    }
    measured.push_back(window);
  }
  return measured;
}

json::object ToJson(const LoadStats& stats) {
  return {{"total", stats.total},
          {"mean", stats.mean},
          {"max", stats.max},
          {"min", stats.min},
          {"max_over_mean", stats.max_over_mean},
          {"cv", stats.cv},
          {"gini", stats.gini},
          {"entropy", stats.entropy},
          {"evenness", stats.evenness}};
}

json::array ToJson(const std::vector<LayerLoad>& layers) {
  json::array listed;
  for (const LayerLoad& layer : layers) {
    listed.push_back({{"layer", layer.layer},
                      {"experts", ToJson(layer.experts)},
                      {"ranks", ToJson(layer.ranks)},
                      {"loads", json::value_from(layer.loads)},
                      {"rank_loads", json::value_from(layer.rank_loads)},
                      {"hot", json::value_from(layer.hot)},
                      {"cold", json::value_from(layer.cold)}});
  }
  return listed;
}

json::array ToJson(const std::vector<WindowLoad>& windows) {
  json::array listed;
  for (const WindowLoad& window : windows) {
    listed.push_back({{"first_step", window.first_step},
                      {"last_step", window.last_step},
                      {"max_over_mean", window.max_over_mean},
                      {"rank_max_over_mean", window.rank_max_over_mean},
                      {"gini", window.gini},
                      {"hot_kept", window.hot_kept}});
  }
  return listed;
}

}  // namespace sluice
