#include "ops/common/cuda/launch.cuh"
#include "ops/common/cuda/math.cuh"
#include "ops/common/cuda/mma.cuh"
#include "ops/gemm/gemm_cuda.h"

namespace sluice::ops::cuda {
namespace {

constexpr int kColumns = 16;   // rows of w, the M of an mma, that a block has
constexpr int kTokens = 8;     // rows of x, the N of an mma
constexpr int kLoad = 8;       // elements in 16 bytes
constexpr int kChunk = 32;     // elements of K that a warp's load covers: 4 lanes a row
constexpr int kUnroll = 4;     // chunks whose loads are in flight together
constexpr int kMaxWarps = 16;  // a block's, among which K is shared
constexpr int kFragment = 4;   // sums of an mma that a lane holds

// Eight elements of x as an mma takes them.
template <class T>
__device__ __forceinline__ void LoadInput(uint32_t (&to)[4], const T* from) {
  const uint4 bits = *reinterpret_cast<const uint4*>(from);
  to[0] = bits.x;
  to[1] = bits.y;
  to[2] = bits.z;
  to[3] = bits.w;
}
template <class T>
__device__ __forceinline__ void LoadInput(uint32_t (&to)[4], const float* from) {
  const float4 low = *reinterpret_cast<const float4*>(from);
  const float4 high = *reinterpret_cast<const float4*>(from + 4);
  to[0] = PackPair<T>(low.x, low.y);
  to[1] = PackPair<T>(low.z, low.w);
  to[2] = PackPair<T>(high.x, high.y);
  to[3] = PackPair<T>(high.z, high.w);
}

// One warp's share of K: sums[t] += w x^T for 16 rows of w and tokens 8 t ..+7.
//
// A lane loads 8 consecutive elements of two rows of w, and of a row of x, and hands the first
// four to one mma and the last four to the next. Within each chunk of 32 that visits K in another
// order than the instruction's own, the same for w and x, which is all that a sum of products asks.
template <class X, class T, int kTiles>
__device__ __forceinline__ void SumShare(const GemmParams& p, int64_t first_column,
                                         float (&sums)[kTiles][kFragment]) {
  const int group = threadIdx.x / 4;
  const int64_t lane_k = threadIdx.x % 4 * kLoad;
  const int64_t head = blockIdx.y;
  // Rows that are not there read the last one; nobody keeps what comes of it.
  const int64_t last = p.columns - 1;
  const T* w = static_cast<const T*>(p.w) + head * p.columns * p.depth;
  const T* w_low = w + min(first_column + group, last) * p.depth;
  const T* w_high = w + min(first_column + group + 8, last) * p.depth;
  const X* x = static_cast<const X*>(p.x) + head * p.x_head_stride + group * p.x_stride;

  constexpr int64_t kStep = kUnroll * kChunk;
  for (int64_t start = threadIdx.y * kStep; start < p.depth; start += blockDim.y * kStep) {
    uint4 low[kUnroll];
    uint4 high[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t k = start + u * kChunk + lane_k;
      low[u] = high[u] = make_uint4(0, 0, 0, 0);
      if (k >= p.depth) continue;
      low[u] = __ldcs(reinterpret_cast<const uint4*>(w_low + k));
      high[u] = __ldcs(reinterpret_cast<const uint4*>(w_high + k));
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t k = start + u * kChunk + lane_k;
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        uint32_t input[4] = {0, 0, 0, 0};
        if (k < p.depth && t * kTokens + group < p.rows) {
          LoadInput<T>(input, x + t * kTokens * p.x_stride + k);
        }
        Mma<T>(sums[t], {low[u].x, high[u].x, low[u].y, high[u].y}, input[0], input[1]);
        Mma<T>(sums[t], {low[u].z, high[u].z, low[u].w, high[u].w}, input[2], input[3]);
      }
    }
  }
}

// A block has 16 rows of w and one head; its warps share K and add up in their order.
template <class X, class T, int kTiles>
__global__ void __launch_bounds__(kMaxWarps* kWarp) FewRowsKernel(const GemmParams p) {
  __shared__ float shares[kMaxWarps][kTiles][kWarp * kFragment];
  const int64_t first_column = static_cast<int64_t>(blockIdx.x) * kColumns;
  float sums[kTiles][kFragment] = {};
  SumShare<X, T>(p, first_column, sums);
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int i = 0; i < kFragment; ++i) {
      shares[threadIdx.y][t][threadIdx.x * kFragment + i] = sums[t][i];
    }
  }
  __syncthreads();
  const int threads = blockDim.y * kWarp;
  for (int e = threadIdx.y * kWarp + threadIdx.x; e < kTiles * kTokens * kColumns; e += threads) {
    const int n = e % kColumns;
    const int token = e / kColumns;
    const int64_t column = first_column + n;
    if (token >= p.rows || column >= p.columns) continue;
    // Where the mma left row n, column token % 8 of tile token / 8.
    const int lane = n % 8 * 4 + token % kTokens / 2;
    const int at = lane * kFragment + n / 8 * 2 + token % 2;
    float& out = p.out[blockIdx.y * p.out_head_stride + token * p.out_stride + column];
    float sum = p.accumulate ? out : 0.0f;
    if (p.bias != nullptr) sum += p.bias[column];
    for (int warp = 0; warp < blockDim.y; ++warp) sum += shares[warp][token / kTokens][at];
    out = sum;
  }
}

template <class X, class T>
void LaunchFewRows(const GemmParams& params, CudaStream& stream) {
  const int64_t blocks = CeilDiv(params.columns, kColumns);
  // A warp should have two rounds of loads; where there are few blocks, more warps of one round
  // each keep as much in flight.
  const int64_t rounds = CeilDiv(params.depth, kUnroll * kChunk);
  const bool few_blocks = blocks * params.heads < 2 * stream.device().multiprocessors;
  const int64_t warps = few_blocks ? rounds : CeilDiv(rounds, 2);
  const int64_t most = few_blocks ? kMaxWarps : kMaxWarps / 2;
  const LaunchShape shape{
      .grid = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(params.heads)),
      .block = dim3(kWarp, static_cast<unsigned>(warps < 1      ? 1
                                                 : warps < most ? warps
                                                                : most))};
  if (params.rows <= kTokens) {
    Launch("gemm_few_rows", &FewRowsKernel<X, T, 1>, shape, stream, params);
  } else {
    Launch("gemm_few_rows", &FewRowsKernel<X, T, 2>, shape, stream, params);
  }
}

template <class T>
void ForInput(const GemmParams& params, CudaStream& stream) {
  if (params.x_dtype == DType::kF32) {
    LaunchFewRows<float, T>(params, stream);
  } else {
    LaunchFewRows<T, T>(params, stream);
  }
}

}  // namespace

void GemmFewRows(const GemmParams& params, CudaStream& stream) {
  if (params.w_dtype == DType::kBF16) {
    ForInput<__nv_bfloat16>(params, stream);
  } else {
    ForInput<__half>(params, stream);
  }
}

}  // namespace sluice::ops::cuda
