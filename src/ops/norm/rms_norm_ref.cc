#include <cmath>

#include "ops/norm/rms_norm_kernels.h"

namespace sluice::ops::reference {

void RmsNormRows(const RmsNormParams& params) {
  for (int64_t r = 0; r < params.rows; ++r) {
    const float* x = params.x + r * params.x_stride;
    float* out = params.out + r * params.out_stride;
    double squares = 0.0;
    for (int64_t i = 0; i < params.width; ++i) squares += static_cast<double>(x[i]) * x[i];
    const double mean = squares / static_cast<double>(params.width);
    const double inverse = 1.0 / std::sqrt(mean + static_cast<double>(params.eps));
    for (int64_t i = 0; i < params.width; ++i) {
      out[i] = static_cast<float>(x[i] * inverse * params.weight[i]);
    }
  }
}

}  // namespace sluice::ops::reference
