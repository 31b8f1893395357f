#include "bench/samples.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace sluice {

double Quantile(std::vector<double> samples, double q) {
  SLUICE_CHECK(!samples.empty());
  SLUICE_CHECK(q >= 0.0 && q <= 1.0);
  std::sort(samples.begin(), samples.end());
  const double at = q * static_cast<double>(samples.size() - 1);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, samples.size() - 1);
  return samples[below] + (at - static_cast<double>(below)) * (samples[above] - samples[below]);
}

}  // namespace sluice
