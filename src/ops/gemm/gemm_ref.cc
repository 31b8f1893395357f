#include "ops/common/load_float.h"
#include "ops/gemm/gemm_kernels.h"

namespace sluice::ops::reference {

void GemmBlock(const GemmBlockParams& params) {
  for (int64_t m = 0; m < params.rows; ++m) {
    float* out = params.out + m * params.out_stride;
    for (int64_t n = 0; n < params.columns; ++n) {
      double sum = params.accumulate ? out[n] : 0.0;
      if (params.bias != nullptr) sum += params.bias[n];
      for (int64_t k = 0; k < params.depth; ++k) {
        const double weight = LoadFloat(params.w, params.dtype, n * params.depth + k);
        sum += params.x_rows[m][k] * weight;
      }
      out[n] = static_cast<float>(sum);
    }
  }
}

}  // namespace sluice::ops::reference
