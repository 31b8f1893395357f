#include "ops/common/cpu/vec.h"
#include "ops/norm/rms_norm_kernels.h"

namespace sluice::ops::SLUICE_TIER {
namespace {

// Four running sums hide the latency of an addition; which sum takes which element depends on the
// width alone.
float SumOfSquares(const float* x, int64_t width) {
  constexpr int kLanes = Vec::kLanes;
  Vec sums[4] = {Vec::Zero(), Vec::Zero(), Vec::Zero(), Vec::Zero()};
  int64_t i = 0;
  for (; i + 4 * kLanes <= width; i += 4 * kLanes) {
#pragma GCC unroll 4
    for (int s = 0; s < 4; ++s) {
      const Vec v = Vec::Load(x + i + s * kLanes);
      sums[s] = Vec::Fma(v, v, sums[s]);
    }
  }
  for (; i + kLanes <= width; i += kLanes) {
    const Vec v = Vec::Load(x + i);
    sums[0] = Vec::Fma(v, v, sums[0]);
  }
  if (i < width) {
    const Vec v = Vec::LoadN(x + i, width - i);
    sums[1] = Vec::Fma(v, v, sums[1]);
  }
  return Vec::ReduceAdd(Vec::Add(Vec::Add(sums[0], sums[1]), Vec::Add(sums[2], sums[3])));
}

}  // namespace

void RmsNormRows(const RmsNormParams& params) {
  for (int64_t r = 0; r < params.rows; ++r) {
    const float* x = params.x + r * params.x_stride;
    float* out = params.out + r * params.out_stride;
    const float mean = SumOfSquares(x, params.width) / static_cast<float>(params.width);
    const float inverse = 1.0f / __builtin_sqrtf(mean + params.eps);
    for (int64_t i = 0; i < params.width; ++i) out[i] = x[i] * inverse * params.weight[i];
  }
}

}  // namespace sluice::ops::SLUICE_TIER
