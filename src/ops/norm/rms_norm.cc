#include "ops/norm/rms_norm.h"

#include <algorithm>

#include "ops/common/checks.h"
#include "ops/norm/rms_norm_kernels.h"

namespace sluice::ops {
namespace {

// Elements a thread takes at a time, a few microseconds of work.
constexpr int64_t kElementGrain = 16'384;

}  // namespace

void RmsNorm(const RmsNormDesc& desc, ConstTensorView x, ConstTensorView weight, TensorView out,
             OpContext& context) {
  const bool grouped = x.rank() == 3;
  if (!grouped) CheckRank("rms_norm x", x, 2);
  const int64_t width = x.dim(x.rank() - 1);
  CheckTensor("rms_norm weight", weight, DType::kF32, {width});
  if (grouped) {
    CheckTensor("rms_norm x", x, DType::kF32, {x.dim(0), x.dim(1), width});
    CheckProductInput("rms_norm out", out, {x.dim(0), x.dim(1), width}, context);
  } else {
    CheckTensor("rms_norm x", x, DType::kF32, {x.dim(0), width});
    CheckProductInput("rms_norm out", out, {x.dim(0), width}, context);
  }
  // Indices of the first dimension are spread over threads; each stands for `inner` rows.
  const int64_t inner = grouped ? x.dim(1) : 1;
  const int row_dim = grouped ? 1 : 0;
  if constexpr (kCudaBuilt) {
    if (context.OnCuda()) {
      cuda::RmsNorm({.x = x.data<float>(),
                     .x_token_stride = x.stride(0),
                     .x_stride = x.stride(row_dim),
                     .weight = weight.data<float>(),
                     .out = out.raw(),
                     .out_dtype = out.dtype(),
                     .out_token_stride = out.stride(0),
                     .out_stride = out.stride(row_dim),
                     .tokens = x.dim(0),
                     .rows = inner,
                     .width = width,
                     .eps = desc.eps},
                    *context.cuda);
      return;
    }
  }
  const auto kernel =
      context.reference ? &reference::RmsNormRows : SLUICE_TIER_FUNCTION(context.tier, RmsNormRows);
  const auto body = [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      kernel({.x = x.data<float>() + i * x.stride(0),
              .x_stride = x.stride(row_dim),
              .weight = weight.data<float>(),
              .out = out.data<float>() + i * out.stride(0),
              .out_stride = out.stride(row_dim),
              .rows = inner,
              .width = width,
              .eps = desc.eps});
    }
  };
  const int64_t grain = std::max<int64_t>(1, kElementGrain / std::max<int64_t>(1, inner * width));
  context.pool.ParallelFor(x.dim(0), grain, body);
}

}  // namespace sluice::ops
