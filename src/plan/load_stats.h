#pragma once

#include <span>

namespace sluice {

// How evenly a load is spread. Of no loads, or of loads that are all 0, it is even: max_over_mean
// and evenness 1, the others 0.
struct LoadStats {
  double total = 0.0;
  double mean = 0.0;
  double max = 0.0;
  double min = 0.0;
  double max_over_mean = 1.0;  // the imbalance: 1 when all are alike, n when one of n has all
  double cv = 0.0;             // coefficient of variation: population standard deviation / mean
  double gini = 0.0;           // sum |a - b| over all pairs / (2 n^2 mean): 0 to (n - 1) / n
  double entropy = 0.0;        // of the shares, in nats: 0 to ln n
  double evenness = 1.0;       // entropy / ln n; 1 for a single load
};

// `loads` are finite and 0 or more.
LoadStats MeasureLoad(std::span<const double> loads);

}  // namespace sluice
