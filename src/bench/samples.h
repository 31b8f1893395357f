#pragma once

#include <vector>

namespace sluice {

// The value below which a share `q` of the samples lies, between two neighbours linearly: 0.5 is
// the median. At least one sample.
double Quantile(std::vector<double> samples, double q);

}  // namespace sluice
