#include <cmath>

#include "ops/norm/layer_norm_kernels.h"

namespace sluice::ops::reference {

void LayerNormRow(const LayerNormParams& params) {
  const auto count = static_cast<double>(params.width);
  double sum = 0.0;
  for (int64_t i = 0; i < params.width; ++i) sum += params.x[i];
  const double mean = sum / count;
  double squares = 0.0;
  for (int64_t i = 0; i < params.width; ++i) squares += std::pow(params.x[i] - mean, 2);
  const double inverse = 1.0 / std::sqrt(squares / count + static_cast<double>(params.eps));
  for (int64_t i = 0; i < params.width; ++i) {
    params.out[i] = static_cast<float>((params.x[i] - mean) * inverse * params.weight[i]);
  }
}

}  // namespace sluice::ops::reference
