#include "ops/permute/dispatch_plan_kernels.h"

namespace sluice::ops::reference {

void CombineToken(const CombineParams& params) {
  for (int64_t i = 0; i < params.width; ++i) {
    double sum = params.out[i];
    for (int64_t j = 0; j < params.top_k; ++j) {
      sum +=
          static_cast<double>(params.weights[j]) * params.y[params.rows[j] * params.y_stride + i];
    }
    params.out[i] = static_cast<float>(sum);
  }
}

}  // namespace sluice::ops::reference
