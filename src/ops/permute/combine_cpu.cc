#include "ops/common/cpu/vec.h"
#include "ops/permute/dispatch_plan_kernels.h"

namespace sluice::ops::SLUICE_TIER {

void CombineToken(const CombineParams& params) {
  for (int64_t j = 0; j < params.top_k; ++j) {
    const float* y = params.y + params.rows[j] * params.y_stride;
    const float weight = params.weights[j];
    for (int64_t i = 0; i < params.width; ++i) params.out[i] += weight * y[i];
  }
}

}  // namespace sluice::ops::SLUICE_TIER
