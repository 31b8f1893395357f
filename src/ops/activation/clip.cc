#include "ops/activation/clip.h"

#include <algorithm>

#include "ops/activation/activation_kernels.h"
#include "ops/common/checks.h"

namespace sluice::ops {

void Clip(float limit, TensorView x, OpContext& context) {
  // Elements a thread takes at a time, a few microseconds of work.
  constexpr int64_t kElementGrain = 16'384;
  SLUICE_CHECK_GE(limit, 0.0f);
  CheckRank("clip x", x, 2);
  const int64_t width = x.dim(1);
  CheckTensor("clip x", x, DType::kF32, {x.dim(0), width});
  if constexpr (kCudaBuilt) {
    if (context.OnCuda()) {
      cuda::Clip({.limit = limit,
                  .x = x.data<float>(),
                  .x_stride = x.stride(0),
                  .rows = x.dim(0),
                  .width = width},
                 *context.cuda);
      return;
    }
  }
  const int64_t grain = std::max<int64_t>(1, kElementGrain / std::max<int64_t>(1, width));
  context.pool.ParallelFor(x.dim(0), grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      float* values = x.data<float>() + row * x.stride(0);
      for (int64_t i = 0; i < width; ++i) values[i] = std::clamp(values[i], -limit, limit);
    }
  });
}

}  // namespace sluice::ops
