#include "plan/load_stats.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/check.h"

namespace sluice {

LoadStats MeasureLoad(std::span<const double> loads) {
  LoadStats stats;
  if (loads.empty()) return stats;
  std::vector<double> sorted(loads.begin(), loads.end());
  std::sort(sorted.begin(), sorted.end());
  SLUICE_CHECK(sorted.front() >= 0.0 && std::isfinite(sorted.back()));
  const double n = static_cast<double>(sorted.size());
  stats.total = std::accumulate(sorted.begin(), sorted.end(), 0.0);
  stats.mean = stats.total / n;
  stats.max = sorted.back();
  stats.min = sorted.front();
  if (stats.total == 0.0) return stats;
  double squares = 0.0;
  double ranked = 0.0;  // of sorted loads, sum |a - b| over all pairs is 2 sum (2 i - n + 1) x_i
  for (size_t i = 0; i < sorted.size(); ++i) {
    const double share = sorted[i] / stats.total;
    squares += (sorted[i] - stats.mean) * (sorted[i] - stats.mean);
    ranked += (2.0 * static_cast<double>(i) - n + 1.0) * sorted[i];
    if (share > 0.0) stats.entropy -= share * std::log(share);
  }
  stats.max_over_mean = stats.max / stats.mean;
  stats.cv = std::sqrt(squares / n) / stats.mean;
  stats.gini = ranked / (n * stats.total);
  stats.evenness = sorted.size() == 1 ? 1.0 : stats.entropy / std::log(n);
  return stats;
}

}  // namespace sluice
