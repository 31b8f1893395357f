#include "ops/common/cuda/launch.cuh"
#include "ops/common/cuda/math.cuh"
#include "ops/gemm/gemm_cuda.h"

namespace sluice::ops::cuda {
namespace {

constexpr int kPlainWarps = 8;
// Rows of x that share a load of a weight.
constexpr int kPlainRows = 8;

// Any shape and mixture of dtypes: a warp has one row of w and up to kPlainRows rows of x, its
// lanes take K in turn. Which lane sums what depends on K alone.
template <class X, class W>
__global__ void PlainGemmKernel(const GemmParams p) {
  LetNextStart();
  WaitForEarlier();
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
    float& out =
        static_cast<float*>(p.out)[head * p.out_head_stride + (row + i) * p.out_stride + column];
    const float before = p.accumulate ? out : 0.0f;
    out = (p.bias == nullptr ? before : before + p.bias[column]) + sum;
  }
}

// Rounds x to bf16 or f16 and leaves it [heads, rows, depth], dense. One thread has eight elements.
constexpr int kNarrowThreads = 256;
constexpr int kNarrowElements = 8;
struct NarrowParams {
  GemmParams gemm;
  void* out;
};
template <class T>
__global__ void NarrowKernel(const NarrowParams p) {
  LetNextStart();
  WaitForEarlier();
  const GemmParams& g = p.gemm;
  const int64_t index =
      (static_cast<int64_t>(blockIdx.x) * kNarrowThreads + threadIdx.x) * kNarrowElements;
  const int64_t k = index % g.depth;
  const int64_t row = index / g.depth % g.rows;
  const int64_t head = index / g.depth / g.rows;
  if (head >= g.heads) return;
  const float* x = static_cast<const float*>(g.x) + head * g.x_head_stride + row * g.x_stride + k;
  Pack<T, kNarrowElements> pack;
#pragma unroll
  for (int i = 0; i < kNarrowElements; ++i) pack.values[i] = FromFloat<T>(x[i]);
  *reinterpret_cast<Pack<T, kNarrowElements>*>(static_cast<T*>(p.out) + index) = pack;
}

// The same product with x in w's dtype, in scratch.
GemmParams Narrow(const GemmParams& params, Arena& arena, CudaStream& stream) {
  const int64_t size = params.heads * params.rows * params.depth;
  const NarrowParams narrow{.gemm = params, .out = arena.Allocate(params.w_dtype, {size}).raw()};
  const LaunchShape shape{
      .grid = static_cast<unsigned>(CeilDiv(size, int64_t{kNarrowThreads * kNarrowElements})),
      .block = kNarrowThreads};
  if (params.w_dtype == DType::kBF16) {
    LaunchEarly<&NarrowKernel<__nv_bfloat16>>("gemm_narrow", shape, stream, narrow);
  } else {
    LaunchEarly<&NarrowKernel<__half>>("gemm_narrow", shape, stream, narrow);
  }
  GemmParams gemm = params;
  gemm.x = narrow.out;
  gemm.x_dtype = params.w_dtype;
  gemm.x_stride = params.depth;
  gemm.x_head_stride = params.rows * params.depth;
  return gemm;
}

// Whether the fast kernels take it (gemm_cuda.h).
bool IsRegular(const GemmParams& p) {
  constexpr int64_t kLoadBytes = 16;
  const auto x_size = static_cast<int64_t>(SizeOf(p.x_dtype));
  return p.w_dtype != DType::kF32 && (p.x_dtype == DType::kF32 || p.x_dtype == p.w_dtype) &&
         p.depth % (kLoadBytes / 2) == 0 && IsMultipleOf(p.x, kLoadBytes) &&
         IsMultipleOf(p.w, kLoadBytes) && p.x_stride * x_size % kLoadBytes == 0 &&
         p.x_head_stride * x_size % kLoadBytes == 0;
}

// As NormGemm's kernels read rows and the weight.
bool IsRegularNorm(const NormGemmParams& p) {
  return p.gemm.x_dtype == DType::kF32 && IsMultipleOf(p.norm_weight, sizeof(float4));
}

}  // namespace

void GemmPlain(const GemmParams& params, CudaStream& stream) {
  stream.NoteFallback("gemm");
  const int64_t blocks =
      CeilDiv(params.rows, kPlainRows) * CeilDiv(params.columns, kPlainWarps) * params.heads;
  const LaunchShape shape{.grid = static_cast<unsigned>(blocks), .block = dim3(kWarp, kPlainWarps)};
  WithFloatType(params.x_dtype, [&](auto* x_type) {
    using X = std::remove_pointer_t<decltype(x_type)>;
    WithFloatType(params.w_dtype, [&](auto* w_type) {
      using W = std::remove_pointer_t<decltype(w_type)>;
      LaunchEarly<&PlainGemmKernel<X, W>>("gemm_plain", shape, stream, params);
    });
  });
}

void Gemm(const GemmParams& params, Arena& arena, CudaStream& stream) {
  if (!IsRegular(params)) return GemmPlain(params, stream);
  if (params.rows <= kFewRows && !params.batch_invariant) return GemmFewRows(params, stream);
  const Arena::Scope scope(arena);
  const bool wide = params.x_dtype == DType::kF32;
  GemmTiles(wide ? Narrow(params, arena, stream) : params, arena, stream);
}

bool FusesSwiGlu(const GemmParams& params) {
  return IsRegular(params) && params.rows <= kFewRows && !params.batch_invariant;
}

bool FusesNorm(const NormGemmParams& params, const CudaStream& stream) {
  return !params.gemm.batch_invariant && IsRegular(params.gemm) && IsRegularNorm(params) &&
         FewRowsTakesNorm(params.gemm, stream);
}

void NormGemm(const NormGemmParams& params, CudaStream& stream) {
  NormGemmFewRows(params, stream);
}

}  // namespace sluice::ops::cuda
