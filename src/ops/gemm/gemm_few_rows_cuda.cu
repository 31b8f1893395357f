#include "ops/common/cuda/launch.cuh"
#include "ops/common/cuda/math.cuh"
#include "ops/common/cuda/mma.cuh"
#include "ops/gemm/gemm_cuda.h"

namespace sluice::ops::cuda {
namespace {

constexpr int kRowTile = 16;   // rows of w in an mma, its M
constexpr int kTokenTile = 8;  // rows of x in an mma, its N
constexpr int kLoad = 8;       // elements in 16 bytes
constexpr int kChunk = 32;     // elements of K that a warp's load covers: 4 lanes a row
constexpr int kFragment = 4;   // sums of an mma that a lane holds
constexpr int kFlight = 4;     // pairs of 16-byte loads of weights that a lane has under way

// What a block multiplies at a time: kRowTiles tiles of w with kTokenTiles tiles of x. Wide tiles
// of w read x less often, narrow ones give more blocks.
template <class XOf, class TOf, int kRowTilesOf, int kTokenTilesOf>
struct FewRowsConfig {
  using X = XOf;
  using T = TOf;
  static constexpr int kRowTiles = kRowTilesOf;
  static constexpr int kTokenTiles = kTokenTilesOf;
  static constexpr int kColumns = kRowTiles * kRowTile;  // a block's columns of out
  static constexpr int kChunks = kFlight / kRowTiles;    // of K, that are under way
  static constexpr int64_t kStep = int64_t{kChunks} * kChunk;
  static constexpr int kTiles = kRowTiles * kTokenTiles;
  static constexpr int kMaxWarps = kTiles > 2 ? 8 : 16;  // which share K
};

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

// Two rows of w, 8 apart, as a lane loads them: 8 elements of each.
struct WeightPair {
  uint4 low;
  uint4 high;
};

// One warp's share of K: sums[r][t] += w x^T for rows 16 r ..+15 of w and tokens 8 t ..+7.
//
// A lane loads 8 consecutive elements of two rows of w, and of a row of x, and hands the first
// four to one mma and the last four to the next. Within each chunk of 32 that visits K in another
// order than the instruction's own, the same for w and x, which is all that a sum of products asks.
template <class Config>
__device__ __forceinline__ void SumShare(
    const GemmParams& p, int64_t first_column,
    float (&sums)[Config::kRowTiles][Config::kTokenTiles][kFragment]) {
  using T = typename Config::T;
  using X = typename Config::X;
  constexpr int kRowTiles = Config::kRowTiles;
  constexpr int kTokenTiles = Config::kTokenTiles;
  constexpr int kChunks = Config::kChunks;
  const int group = threadIdx.x / 4;
  const int64_t lane_k = threadIdx.x % 4 * kLoad;
  const int64_t head = blockIdx.y;
  const X* x = static_cast<const X*>(p.x) + head * p.x_head_stride + group * p.x_stride;
  // Rows that are not there read the last one; nobody keeps what comes of it.
  const T* w[kRowTiles][2];
#pragma unroll
  for (int i = 0; i < 2 * kRowTiles; ++i) {
    const int64_t column = min(first_column + group + i * 8, p.columns - 1);
    w[i / 2][i % 2] = static_cast<const T*>(p.w) + (head * p.columns + column) * p.depth;
  }

  WeightPair weights[kChunks][kRowTiles];
  const auto load = [&](int chunk, int64_t start) {
    const int64_t k = start + chunk * kChunk + lane_k;
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      weights[chunk][r] = {};
      if (k >= p.depth) continue;
      weights[chunk][r].low = __ldcs(reinterpret_cast<const uint4*>(w[r][0] + k));
      weights[chunk][r].high = __ldcs(reinterpret_cast<const uint4*>(w[r][1] + k));
    }
  };
  int64_t start = threadIdx.y * Config::kStep;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) load(c, start);
  WaitForEarlier();
  while (start < p.depth) {
    const int64_t next = start + blockDim.y * Config::kStep;
    uint32_t inputs[kChunks][kTokenTiles][4] = {};
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int64_t k = start + c * kChunk + lane_k;
#pragma unroll
      for (int t = 0; t < kTokenTiles; ++t) {
        if (k < p.depth && t * kTokenTile + group < p.rows) {
          LoadInput<T>(inputs[c][t], x + t * kTokenTile * p.x_stride + k);
        }
      }
    }
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        const auto& [low, high] = weights[c][r];
#pragma unroll
        for (int t = 0; t < kTokenTiles; ++t) {
          const uint32_t(&input)[4] = inputs[c][t];
          Mma<T>(sums[r][t], {low.x, high.x, low.y, high.y}, input[0], input[1]);
          Mma<T>(sums[r][t], {low.z, high.z, low.w, high.w}, input[2], input[3]);
        }
      }
      load(c, next);
    }
    start = next;
  }
}

// A block has kColumns rows of w of one head; its warps share K and add up in their order.
template <class Config>
__global__ void __launch_bounds__(Config::kMaxWarps* kWarp) FewRowsKernel(const GemmParams p) {
  __shared__ float shares[Config::kMaxWarps][Config::kTiles][kWarp * kFragment];
  LetNextStart();
  const int64_t first_column = static_cast<int64_t>(blockIdx.x) * Config::kColumns;
  float sums[Config::kRowTiles][Config::kTokenTiles][kFragment] = {};
  SumShare<Config>(p, first_column, sums);
#pragma unroll
  for (int tile = 0; tile < Config::kTiles; ++tile) {
    const float(&from)[kFragment] = sums[tile / Config::kTokenTiles][tile % Config::kTokenTiles];
    *reinterpret_cast<float4*>(&shares[threadIdx.y][tile][threadIdx.x * kFragment]) =
        make_float4(from[0], from[1], from[2], from[3]);
  }
  __syncthreads();
  const int threads = blockDim.y * kWarp;
  const int tokens = static_cast<int>(p.rows);
  for (int e = threadIdx.y * kWarp + threadIdx.x; e < tokens * Config::kColumns; e += threads) {
    const int n = e % Config::kColumns;
    const int token = e / Config::kColumns;
    const int64_t column = first_column + n;
    if (column >= p.columns) continue;
    // Where the mma left row n % 16 and column token % 8 of its tile.
    const int tile = n / kRowTile * Config::kTokenTiles + token / kTokenTile;
    const int lane = n % 8 * 4 + token % kTokenTile / 2;
    const int at = lane * kFragment + n % kRowTile / 8 * 2 + token % 2;
    float& out = p.out[blockIdx.y * p.out_head_stride + token * p.out_stride + column];
    float sum = p.accumulate ? out : 0.0f;
    if (p.bias != nullptr) sum += p.bias[column];
    for (int warp = 0; warp < blockDim.y; ++warp) sum += shares[warp][tile][at];
    out = sum;
  }
}

template <class Config>
void LaunchFewRows(const GemmParams& params, CudaStream& stream) {
  const int64_t blocks = CeilDiv(params.columns, Config::kColumns);
  // A warp should have two rounds of loads or more; where there are few blocks, more warps of one
  // round each keep as much in flight.
  const int64_t rounds = CeilDiv(params.depth, Config::kStep);
  const bool few_blocks = blocks * params.heads < 2 * stream.device().multiprocessors;
  const int64_t warps = few_blocks ? rounds : CeilDiv(rounds, 2);
  const int64_t most = few_blocks ? Config::kMaxWarps : 8;
  const LaunchShape shape{
      .grid = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(params.heads)),
      .block = dim3(kWarp, static_cast<unsigned>(warps < 1      ? 1
                                                 : warps < most ? warps
                                                                : most))};
  LaunchEarly<&FewRowsKernel<Config>>("gemm_few_rows", shape, stream, params);
}

template <class X, class T>
void ForRows(const GemmParams& params, CudaStream& stream) {
  // Where narrow tiles would give many blocks for each multiprocessor, wide ones do.
  constexpr int64_t kManyBlocks = 16;
  const bool wide = CeilDiv(params.columns, kRowTile) * params.heads >=
                    kManyBlocks * stream.device().multiprocessors;
  if (params.rows > 2 * kTokenTile) {
    LaunchFewRows<FewRowsConfig<X, T, 2, 4>>(params, stream);
  } else if (params.rows > kTokenTile && wide) {
    LaunchFewRows<FewRowsConfig<X, T, 2, 2>>(params, stream);
  } else if (params.rows > kTokenTile) {
    LaunchFewRows<FewRowsConfig<X, T, 1, 2>>(params, stream);
  } else if (wide) {
    LaunchFewRows<FewRowsConfig<X, T, 2, 1>>(params, stream);
  } else {
    LaunchFewRows<FewRowsConfig<X, T, 1, 1>>(params, stream);
  }
}

template <class T>
void ForInput(const GemmParams& params, CudaStream& stream) {
  if (params.x_dtype == DType::kF32) {
    ForRows<float, T>(params, stream);
  } else {
    ForRows<T, T>(params, stream);
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
