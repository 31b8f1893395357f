#pragma once

#include "ops/attention/attention_prefill.cuh"
#include "ops/common/cuda/wgmma.cuh"

// Attention by Hopper's products (ops/common/cuda/wgmma.cuh), of a head_dim of 128: what its
// kernels share. Each warpgroup has 64 rows; positions come in tiles of 128.
namespace sluice::ops::cuda {

inline constexpr int kWarpgroupDim = 128;
inline constexpr int kWarpgroupPositions = 128;
inline constexpr int kGroupRows = 64;
inline constexpr int kHalfDim = 64;  // what a tile of the products' layout is wide
inline constexpr uint32_t kHalfRowBytes = kHalfDim * sizeof(__nv_bfloat16);
inline constexpr int kWarpgroupAlignment = 1024;

// The form of blocks of so many warpgroups (attention_prefill.cuh).
template <int kGroups>
struct WarpgroupForm {
  static constexpr int kDim = kWarpgroupDim;
  static constexpr int kWarps = 4 * kGroups;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kTiles = 1;
  static constexpr int kRows = kGroups * kGroupRows;
  static constexpr int kPositions = kWarpgroupPositions;
  static constexpr int kStride = kDim + 8;  // of rows on their way out
};

// Queries, keys or values: their first 64 dims, then the others.
template <int kCount>
struct Rows {
  static constexpr uint32_t kHalfBytes = kCount * kHalfRowBytes;
  __nv_bfloat16 halves[2][kCount * kHalfDim];
};
using KvRows = Rows<kWarpgroupPositions>;

// The block's dynamic shared memory as a Shared, which has kWarpgroupAlignment bytes more.
template <class Shared>
__device__ __forceinline__ Shared& AlignedShared(char* memory) {
  const uint32_t over = SharedAddress(memory) % kWarpgroupAlignment;
  return *reinterpret_cast<Shared*>(memory + (kWarpgroupAlignment - over) % kWarpgroupAlignment);
}

// Where a row's dims lie, as LoadQueries and CopyTile ask.
template <int kCount>
__device__ __forceinline__ auto PlacesIn(Rows<kCount>& rows) {
  return [&rows](int row, int dim) {
    return rows.halves[dim / kHalfDim] + SwizzledOffset(row, dim % kHalfDim / 8) + dim % 8;
  };
}

// Queues the products of this warpgroup's queries with a tile's keys. `queries` are of the block's
// rows, from the warpgroup's first on.
template <class F>
__device__ __forceinline__ void Score(uint32_t queries, uint32_t keys, float (&scores)[16][4]) {
  constexpr int kStepsOfHalf = kHalfDim / 16;
  constexpr uint32_t kStepBytes = 16 * sizeof(__nv_bfloat16);  // along a row
#pragma unroll
  for (int step = 0; step < F::kDim / 16; ++step) {
    const uint32_t half = step / kStepsOfHalf;
    const uint32_t at = step % kStepsOfHalf * kStepBytes;
    WarpgroupDot(scores, TileDescriptor(queries + half * Rows<F::kRows>::kHalfBytes + at, 0),
                 TileDescriptor(keys + half * KvRows::kHalfBytes + at, 0), step > 0);
  }
  WarpgroupCommit();
}

using Weights = uint32_t[kWarpgroupPositions / 16][4];

template <class F>
__device__ __forceinline__ void PackTile(const Scores<F>& scores, Weights& weights) {
#pragma unroll
  for (int n = 0; n < F::kPositions / 16; ++n) {
    PackWeights(scores[0][2 * n], scores[0][2 * n + 1], weights[n]);
  }
}

// Queues the products of weights with a tile's values.
__device__ __forceinline__ void AddValues(const Weights& weights, uint32_t values,
                                          float (&out)[16][4]) {
#pragma unroll
  for (int n = 0; n < kWarpgroupPositions / 16; ++n) {
    WarpgroupSum(out, weights[n],
                 TileDescriptor(values + n * 16 * kHalfRowBytes, KvRows::kHalfBytes), true);
  }
  WarpgroupCommit();
}

// Where a row's bits are not to depend on its company, its positions are cut into splits of so
// many, at absolute multiples; each is added up by itself, and splits are added up in their order.
// So blocks may have a split each, and a block that has all of them comes to the same.
inline constexpr int kFixedSplit = 256;
static_assert(kFixedSplit % kWarpgroupPositions == 0);

// How a split's sums are added to those of the splits before it, of the largest scores given.
struct SplitFactors {
  float largest;  // of both
  float correction;
  float weight;
};

__device__ __forceinline__ SplitFactors FactorsOf(float scale, float before, float split) {
  const float largest = fmaxf(before, split);
  const float base = largest == -INFINITY ? 0.0f : __fmul_rn(largest, scale);
  return {largest, Exp2(__fmul_rn(before, scale) - base), Exp2(__fmul_rn(split, scale) - base)};
}

__device__ __forceinline__ float AddSplit(const SplitFactors& factors, float before, float split) {
  return __fmaf_rn(factors.weight, split, __fmul_rn(before, factors.correction));
}

// Adds a split's sums to those before it, and clears them. A row that saw nothing of the split
// stays as it is.
template <class F>
__device__ __forceinline__ void EndSplit(float scale, Sums<F>& split, Sums<F>& whole) {
  AddUpTotals<F>(split);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (split.largest[0][half] == -INFINITY) continue;
    const SplitFactors factors = FactorsOf(scale, whole.largest[0][half], split.largest[0][half]);
    whole.largest[0][half] = factors.largest;
    whole.total[0][half] = AddSplit(factors, whole.total[0][half], split.total[0][half]);
#pragma unroll
    for (int j = 0; j < F::kDim / 8; ++j) {
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        whole.out[0][j][i] = AddSplit(factors, whole.out[0][j][i], split.out[0][j][i]);
      }
    }
  }
  Clear<F>(split);
}

}  // namespace sluice::ops::cuda
