#include "ops/common/cuda/launch.cuh"
#include "ops/common/cuda/math.cuh"
#include "ops/gemm/gemm_kernels.h"

namespace sluice::ops::cuda {
namespace {

constexpr int kPlainWarps = 8;
// Rows of x that share a load of a weight.
constexpr int kPlainRows = 8;

// Any shape and mixture of dtypes: a warp has one row of w and up to kPlainRows rows of x, its
// lanes take K in turn. Which lane sums what depends on K alone.
template <class X, class W>
__global__ void PlainGemmKernel(const GemmParams p) {
  const int64_t row_blocks = CeilDiv(p.rows, kPlainRows);
  const int64_t column_blocks = CeilDiv(p.columns, kPlainWarps);
  const int64_t row = blockIdx.x % row_blocks * kPlainRows;
  const int64_t column = blockIdx.x / row_blocks % column_blocks * kPlainWarps + threadIdx.y;
  const int64_t head = blockIdx.x / row_blocks / column_blocks;
  if (column >= p.columns) return;
  const int lane = threadIdx.x;
  const X* x = static_cast<const X*>(p.x) + head * p.x_head_stride + row * p.x_stride;
  const W* w = static_cast<const W*>(p.w) + (head * p.columns + column) * p.depth;

  float sums[kPlainRows] = {};
  for (int64_t k = lane; k < p.depth; k += kWarp) {
    const float weight = ToFloat(w[k]);
#pragma unroll
    for (int i = 0; i < kPlainRows; ++i) {
      if (row + i < p.rows) sums[i] += weight * ToFloat(x[i * p.x_stride + k]);
    }
  }
#pragma unroll
  for (int i = 0; i < kPlainRows; ++i) {
    const float sum = WarpSum(sums[i]);
    if (lane != 0 || row + i >= p.rows) continue;
    float& out = p.out[head * p.out_head_stride + (row + i) * p.out_stride + column];
    const float before = p.accumulate ? out : 0.0f;
    out = (p.bias == nullptr ? before : before + p.bias[column]) + sum;
  }
}

void PlainGemm(const GemmParams& params, CudaStream& stream) {
  const int64_t blocks =
      CeilDiv(params.rows, kPlainRows) * CeilDiv(params.columns, kPlainWarps) * params.heads;
  const LaunchShape shape{.grid = static_cast<unsigned>(blocks), .block = dim3(kWarp, kPlainWarps)};
  WithFloatType(params.x_dtype, [&](auto* x_type) {
    using X = std::remove_pointer_t<decltype(x_type)>;
    WithFloatType(params.w_dtype, [&](auto* w_type) {
      using W = std::remove_pointer_t<decltype(w_type)>;
      Launch("gemm_plain", &PlainGemmKernel<X, W>, shape, stream, params);
    });
  });
}

}  // namespace

void Gemm(const GemmParams& params, Arena& /*arena*/, CudaStream& stream) {
  PlainGemm(params, stream);
}

}  // namespace sluice::ops::cuda
