#include <algorithm>

#include "ops/common/cuda/launch.cuh"
#include "ops/common/cuda/math.cuh"
#include "ops/common/cuda/mma.cuh"
#include "ops/gemm/gemm_cuda.h"

namespace sluice::ops::cuda {
namespace {

constexpr int kColumns = 16;  // rows of w, the M of an mma, that a block has
constexpr int kTokens = 8;    // rows of x, the N of an mma
constexpr int kLoad = 8;      // elements in 16 bytes
constexpr int kChunk = 32;    // elements of K that a warp's load covers: 4 lanes a row
constexpr int kChunks = 2;    // of a stage, which is then a whole line of each row
constexpr int kStage = kChunks * kChunk;
constexpr int kStages = 2;           // of a warp's weights, under way or being used
constexpr int kLoads = kChunks * 2;  // of a lane in a stage: two rows of w, 8 apart
constexpr int kMaxWarps = 16;        // a block's, which share K
constexpr int kFragment = 4;         // sums of an mma that a lane holds
// A warp's shared memory, in cells of 16 bytes that one lane alone writes and reads. 64 KB for the
// largest block: two fit where most decoding is done, and that of the next kernel finds room.
constexpr int kWarpCells = kStages * kLoads * kWarp;
constexpr size_t kWarpBytes = sizeof(uint4) * kWarpCells;

// Eight consecutive elements of x as they are loaded, and as an mma takes them.
template <class X>
struct Input {
  uint4 bits;
};
template <>
struct Input<float> {
  float4 low;
  float4 high;
};

template <class T>
__device__ __forceinline__ void Unpack(const Input<T>& input, uint32_t (&to)[4]) {
  to[0] = input.bits.x;
  to[1] = input.bits.y;
  to[2] = input.bits.z;
  to[3] = input.bits.w;
}
template <class T>
__device__ __forceinline__ void Unpack(const Input<float>& input, uint32_t (&to)[4]) {
  to[0] = PackPair<T>(input.low.x, input.low.y);
  to[1] = PackPair<T>(input.low.z, input.low.w);
  to[2] = PackPair<T>(input.high.x, input.high.y);
  to[3] = PackPair<T>(input.high.z, input.high.w);
}

// One warp's share of K, every so many stages: sums[t] += w x^T for 16 rows of w and tokens
// 8 t ..+7. `cells` is the warp's part of shared memory.
//
// A lane copies 8 consecutive elements of two rows of w to cells of its own, where no other thread
// looks, so that nobody waits for anybody. It hands the first four and as many of x to one mma, and
// the last four to the next: within each chunk of 32 that visits K in another order than the
// instruction's own, the same for w and x, which is all that a sum of products asks.
//
// Rows that are not there, of w or x, are read as the last one; nobody keeps what comes of it.
template <class X, class T, int kTiles>
__device__ __forceinline__ void SumShare(const GemmParams& p, int64_t first_column, uint4* cells,
                                         float (&sums)[kTiles][kFragment]) {
  const int group = threadIdx.x / 4;
  const int64_t head = blockIdx.y;
  const int depth = static_cast<int>(p.depth);
  const int lane_k = threadIdx.x % 4 * kLoad;
  const int first = threadIdx.y * kStage;
  const int step = blockDim.y * kStage;
  const T* w[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int64_t column = min(first_column + group + i * 8, p.columns - 1);
    w[i] = static_cast<const T*>(p.w) + (head * p.columns + column) * p.depth;
  }
  const X* x[kTiles];
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    const int64_t token = min(int64_t{t * kTokens + group}, p.rows - 1);
    x[t] = static_cast<const X*>(p.x) + head * p.x_head_stride + token * p.x_stride;
  }

  const auto cell = [&](int slot, int chunk, int row) -> uint4& {
    return cells[((slot * kChunks + chunk) * 2 + row) * kWarp + threadIdx.x];
  };
  // Copies the stage in which this lane begins at `k`; so for inputs.
  const auto copy_weights = [&](int slot, int k) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c, k += kChunk) {
      if (k >= depth) continue;
      CopyAsync16(&cell(slot, c, 0), w[0] + k);
      CopyAsync16(&cell(slot, c, 1), w[1] + k);
    }
    CopyAsyncCommit();  // an empty group too, so that the count of groups is that of stages
  };
  Input<X> inputs[kStages][kChunks][kTiles];
  const auto load_inputs = [&](int slot, int k) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c, k += kChunk) {
      if (k >= depth) continue;
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        inputs[slot][c][t] = *reinterpret_cast<const Input<X>*>(x[t] + k);
      }
    }
  };

#pragma unroll
  for (int slot = 0; slot < kStages; ++slot) copy_weights(slot, first + lane_k + slot * step);
  WaitForEarlier();
#pragma unroll
  for (int slot = 0; slot < kStages; ++slot) load_inputs(slot, first + lane_k + slot * step);
  // The warp's lanes stay together: an mma is of them all.
  for (int start = first; start < depth; start += kStages * step) {
    const int k = start + lane_k;
#pragma unroll
    for (int slot = 0; slot < kStages; ++slot) {
      CopyAsyncWait<kStages - 1>();
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        const bool exists = k + slot * step + c * kChunk < depth;
        const uint4 zero = {};
        const uint4 low = exists ? cell(slot, c, 0) : zero;
        const uint4 high = exists ? cell(slot, c, 1) : zero;
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          uint32_t input[4] = {};
          if (exists) Unpack<T>(inputs[slot][c][t], input);
          Mma<T>(sums[t], {low.x, high.x, low.y, high.y}, input[0], input[1]);
          Mma<T>(sums[t], {low.z, high.z, low.w, high.w}, input[2], input[3]);
        }
      }
      copy_weights(slot, k + (slot + kStages) * step);
      load_inputs(slot, k + (slot + kStages) * step);
    }
  }
  CopyAsyncWait<0>();
}

// Blocks of eight warps that a multiprocessor's registers are to hold: the more, the fewer inputs a
// lane has under way.
template <class X, class T, int kTiles>
constexpr int MinBlocks(int warps) {
  constexpr int kInputs = kTiles * sizeof(X) / sizeof(T);
  if (warps == kMaxWarps) return 1;
  return kInputs == 1 ? 4 : kInputs == 2 ? 3 : 2;
}

// A block has kColumns rows of w of one head; its kWarps warps or fewer share K and add up in their
// order.
template <class X, class T, int kTiles, int kWarps>
__global__ void __launch_bounds__(kWarps* kWarp, MinBlocks<X, T, kTiles>(kWarps))
    FewRowsKernel(const GemmParams p) {
  extern __shared__ __align__(128) uint4 cells[];
  static_assert(kTiles <= kStages * kLoads);  // sums are left where weights were
  LetNextStart();
  const int64_t first_column = static_cast<int64_t>(blockIdx.x) * kColumns;
  float sums[kTiles][kFragment] = {};
  uint4* own = cells + threadIdx.y * kWarpCells;
  SumShare<X, T>(p, first_column, own, sums);
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    own[t * kWarp + threadIdx.x] =
        make_uint4(__float_as_uint(sums[t][0]), __float_as_uint(sums[t][1]),
                   __float_as_uint(sums[t][2]), __float_as_uint(sums[t][3]));
  }
  __syncthreads();
  const int threads = blockDim.y * kWarp;
  const int tokens = static_cast<int>(p.rows);
  for (int e = threadIdx.y * kWarp + threadIdx.x; e < tokens * kColumns; e += threads) {
    const int n = e % kColumns;
    const int token = e / kColumns;
    const int64_t column = first_column + n;
    if (column >= p.columns) continue;
    // Where the mma left row n, column token % 8 of tile token / 8.
    const int lane = n % 8 * 4 + token % kTokens / 2;
    const int at = (token / kTokens * kWarp + lane) * kFragment + n / 8 * 2 + token % 2;
    float& out = p.out[blockIdx.y * p.out_head_stride + token * p.out_stride + column];
    float sum = p.accumulate ? out : 0.0f;
    if (p.bias != nullptr) sum += p.bias[column];
    for (int warp = 0; warp < blockDim.y; ++warp) {
      sum += reinterpret_cast<const float*>(cells + warp * kWarpCells)[at];
    }
    out = sum;
  }
}

template <class X, class T, int kTiles, int kWarps>
void LaunchFewRows(const GemmParams& params, CudaStream& stream) {
  constexpr auto kKernel = &FewRowsKernel<X, T, kTiles, kWarps>;
  const int64_t stages = CeilDiv(params.depth, int64_t{kStage});
  const int64_t warps = std::clamp<int64_t>(stages, 1, kWarps);
  const LaunchShape shape{
      .grid = dim3(static_cast<unsigned>(CeilDiv(params.columns, int64_t{kColumns})),
                   static_cast<unsigned>(params.heads)),
      .block = dim3(kWarp, static_cast<unsigned>(warps)),
      .shared_bytes = kWarpBytes * warps};
  AllowShared("gemm_few_rows", kKernel, kWarpBytes * kWarps);
  LaunchEarly<kKernel>("gemm_few_rows", shape, stream, params);
}

template <class X, class T, int kTiles>
void ForBlocks(const GemmParams& params, CudaStream& stream) {
  // Where there are few blocks, more warps keep as much under way.
  const int64_t blocks = CeilDiv(params.columns, int64_t{kColumns}) * params.heads;
  if (blocks < 2 * stream.device().multiprocessors) {
    LaunchFewRows<X, T, kTiles, kMaxWarps>(params, stream);
  } else {
    LaunchFewRows<X, T, kTiles, kMaxWarps / 2>(params, stream);
  }
}

template <class X, class T>
void ForRows(const GemmParams& params, CudaStream& stream) {
  if (params.rows <= kTokens) {
    ForBlocks<X, T, 1>(params, stream);
  } else {
    ForBlocks<X, T, 2>(params, stream);
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
