#include "ops/gemm/gemm_kernels.h"

#include "ops/common/cpu/dot_tile.h"

namespace sluice::ops::SLUICE_TIER {

void GemmBlock(const GemmBlockParams& params) {
  for (int64_t m = 0; m < params.rows; ++m) {
    float* out = params.out + m * params.out_stride;
    for (int64_t n = 0; n < params.columns; ++n) {
      const float before = params.accumulate ? out[n] : 0.0f;
      out[n] = params.bias == nullptr ? before : before + params.bias[n];
    }
  }
  DotBlock(params.x_rows, params.rows, params.w, params.dtype, params.columns, params.depth,
           params.out, params.out_stride);
}

}  // namespace sluice::ops::SLUICE_TIER
