#include "ops/norm/layer_norm.h"

#include <algorithm>

#include "ops/common/checks.h"
#include "ops/norm/layer_norm_kernels.h"

namespace sluice::ops {
namespace {

// Elements a thread takes at a time, a few microseconds of work.
constexpr int64_t kElementGrain = 16'384;

}  // namespace

void LayerNorm(const LayerNormDesc& desc, ConstTensorView x, ConstTensorView weight, TensorView out,
               OpContext& context) {
  CheckRank("layer_norm x", x, 2);
  const int64_t width = x.dim(1);
  CheckTensor("layer_norm x", x, DType::kF32, {x.dim(0), width});
  CheckTensor("layer_norm weight", weight, DType::kF32, {width});
  CheckProductInput("layer_norm out", out, {x.dim(0), width}, context);
  if constexpr (kCudaBuilt) {
    if (context.OnCuda()) {
      cuda::LayerNorm({.x = x.data<float>(),
                       .x_stride = x.stride(0),
                       .weight = weight.data<float>(),
                       .out = out.raw(),
                       .out_dtype = out.dtype(),
                       .out_stride = out.stride(0),
                       .rows = x.dim(0),
                       .width = width,
                       .eps = desc.eps},
                      *context.cuda);
      return;
    }
  }
  const auto kernel = context.reference ? &reference::LayerNormRow
                                        : SLUICE_TIER_FUNCTION(context.tier, LayerNormRow);
  const auto body = [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      kernel({.x = x.data<float>() + i * x.stride(0),
              .weight = weight.data<float>(),
              .out = out.data<float>() + i * out.stride(0),
              .width = width,
              .eps = desc.eps});
    }
  };
  const int64_t grain = std::max<int64_t>(1, kElementGrain / std::max<int64_t>(1, width));
  context.pool.ParallelFor(x.dim(0), grain, body);
}

}  // namespace sluice::ops
