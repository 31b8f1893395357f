#pragma once

#include "ops/attention/attention_device.cuh"
#include "ops/common/cuda/math.cuh"

// What the kernels share that cut a sequence's positions into splits: tiles of 16 rows, their cut,
// and how the splits' sums become one.
namespace sluice::ops::cuda {

inline constexpr int kRows = 16;  // a tile

// Rows [first_row, rows) of a sequence's (query, head of a KV head) pairs, at most kRows of them.
struct SplitTile {
  int sequence;
  int token;  // the sequence's first
  int kv_head;
  int group_heads;
  int first_row;
  int rows;

  __device__ int RowCount() const { return min(kRows, rows - first_row); }
  __device__ int TokenOf(int row) const { return token + (first_row + row) / group_heads; }
  __device__ int HeadOf(int row) const {
    return kv_head * group_heads + (first_row + row) % group_heads;
  }
  __device__ int64_t OutOf(const AttentionParams& p, int row) const {
    return TokenOf(row) * p.out_token_stride + HeadOf(row) * p.out_head_stride;
  }
};

// The tile of a block of the grid (num_kv_heads * row_blocks, splits, sequences).
__device__ inline SplitTile PlaceTile(const AttentionParams& p, int row_blocks) {
  SplitTile tile{};
  tile.sequence = blockIdx.z;
  tile.token = p.tables.query_begin[tile.sequence];
  tile.kv_head = blockIdx.x / row_blocks;
  tile.group_heads = p.num_heads / p.num_kv_heads;
  tile.first_row = blockIdx.x % row_blocks * kRows;
  tile.rows = (p.tables.query_begin[tile.sequence + 1] - tile.token) * tile.group_heads;
  return tile;
}

// What the tile's rows see: of a lane's two rows each, and of all.
struct TileRanges {
  VisibleRange own[2];
  int begin;        // of the union
  int end;          // of the union
  int common_from;  // from here on and
  int common_to;    // up to here every row sees every position
};

__device__ inline TileRanges RangesOfTile(const AttentionParams& p, const SplitTile& place,
                                          int lane) {
  TileRanges tile{{}, kNoTree, 0, 0, kNoTree};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = lane / 4 + 8 * half;
    tile.own[half] = {0, 0, kNoTree, 0};
    if (row >= place.RowCount()) continue;
    const VisibleRange range = RangeOfRow(p.tables, place.sequence, place.TokenOf(row), p.window);
    tile.own[half] = range;
    tile.begin = min(tile.begin, range.begin);
    tile.end = max(tile.end, range.end);
    tile.common_from = max(tile.common_from, range.begin);
    tile.common_to = min(tile.common_to, min(range.end, range.tree_begin));
  }
#pragma unroll
  for (int offset = 4; offset < kWarp; offset *= 2) {
    tile.begin = min(tile.begin, __shfl_xor_sync(0xffffffffu, tile.begin, offset));
    tile.end = max(tile.end, __shfl_xor_sync(0xffffffffu, tile.end, offset));
    tile.common_from =
        max(tile.common_from, __shfl_xor_sync(0xffffffffu, tile.common_from, offset));
    tile.common_to = min(tile.common_to, __shfl_xor_sync(0xffffffffu, tile.common_to, offset));
  }
  return tile;
}

// A block's part of a tile's positions. A tile has as many splits as it needs, all but the last of
// the same multiple of `unit` positions, starting at a multiple of `unit`.
struct Split {
  int index;
  int active;
  int begin;
  int end;
};

__device__ inline Split CutTile(const TileRanges& ranges, int splits, int unit) {
  const bool any = ranges.begin < ranges.end;
  const int first = any ? ranges.begin / unit : 0;
  const int units = any ? CeilDiv(ranges.end, unit) - first : 0;
  const int split_units = max(1, CeilDiv(units, splits));
  const int index = blockIdx.y;
  return {index, max(1, CeilDiv(units, split_units)),
          max(ranges.begin, (first + index * split_units) * unit),
          min(ranges.end, (first + (index + 1) * split_units) * unit)};
}

// Positions below this were written before this step: they may be read before WaitForEarlier. Known
// of sequences that decode; of others it is 0.
template <class Tile>
__device__ __forceinline__ int WrittenBefore(const AttentionParams& p, const Tile& tile) {
  const bool decodes =
      tile.rows == tile.group_heads && p.tables.masks[tile.sequence] == kMaskCausal;
  return decodes ? p.tables.positions[tile.token] : 0;
}

// Where a split's sums stand among all.
__device__ __forceinline__ int64_t PartOf(int splits, int index) {
  return (static_cast<int64_t>(blockIdx.z) * gridDim.x + blockIdx.x) * splits + index;
}

__device__ __forceinline__ void StoreOut(const AttentionParams& p, int64_t at, float value) {
  if (p.out_dtype == DType::kF32) {
    static_cast<float*>(p.out)[at] = value;
  } else if (p.out_dtype == DType::kBF16) {
    static_cast<__nv_bfloat16*>(p.out)[at] = FromFloat<__nv_bfloat16>(value);
  } else {
    static_cast<__half*>(p.out)[at] = FromFloat<__half>(value);
  }
}

__device__ __forceinline__ void StoreOut(const AttentionParams& p, int64_t at, float2 pair) {
  StoreOut(p, at, pair.x);
  StoreOut(p, at + 1, pair.y);
}

__device__ __forceinline__ void StoreOut(const AttentionParams& p, int64_t at, float4 quad) {
  StoreOut(p, at, float2{quad.x, quad.y});
  StoreOut(p, at + 2, float2{quad.z, quad.w});
}

__device__ __forceinline__ float4 AddScaled(float4 sum, float weight, float4 value) {
  return {sum.x + weight * value.x, sum.y + weight * value.y, sum.z + weight * value.z,
          sum.w + weight * value.w};
}

__device__ __forceinline__ float4 Scaled(float4 value, float factor) {
  return {value.x * factor, value.y * factor, value.z * factor, value.w * factor};
}

// Adds up `count` parts of a row in their order, kAhead of them under way at a time: `state(i)` is
// part i's (largest, total), `value(i)` its four sums. `whole` becomes their largest and total.
template <int kAhead, class State, class Value>
__device__ __forceinline__ float4 AddUpParts(int count, State state, Value value, float2& whole) {
  float4 sum{};
  whole = {-INFINITY, 0.0f};
  for (int first = 0; first < count; first += kAhead) {
    float2 states[kAhead];
    float4 values[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      states[j] = {-INFINITY, 0.0f};
      values[j] = {};
      if (first + j >= count) continue;
      states[j] = state(first + j);
      values[j] = value(first + j);
    }
    float largest = whole.x;
#pragma unroll
    for (int j = 0; j < kAhead; ++j) largest = fmaxf(largest, states[j].x);
    const float base = largest == -INFINITY ? 0.0f : largest;  // parts that saw nothing
    const float correction = Exp2(whole.x - base);
    sum = Scaled(sum, correction);
    whole = {largest, whole.y * correction};
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const float weight = Exp2(states[j].x - base);
      sum = AddScaled(sum, weight, values[j]);
      whole.y += weight * states[j].y;
    }
  }
  return sum;
}

__device__ __forceinline__ float Inverse(float total) {
  return total > 0.0f ? 1.0f / total : 0.0f;
}

// Whether the block is the last of its tile's `active` to come here; what the others wrote is then
// to be seen. All threads call it.
__device__ inline bool IsLastOfTile(int32_t* counters, int active) {
  __shared__ bool is_last;
  __syncthreads();
  if (threadIdx.x == 0) {
    int32_t* counter =
        counters + static_cast<int64_t>(blockIdx.z) * kAttentionCounters + blockIdx.x;
    is_last = AddReleasing(counter, 1) == active - 1;
    if (is_last) *counter = 0;
  }
  __syncthreads();
  return is_last;
}

// Adds up the splits' sums and stores the tile's result.
template <int kDim>
__device__ inline void AddUpSplits(const AttentionParams& p, const SplitTile& tile, int active,
                                   const float* partials, const float2* states,
                                   int64_t first_part) {
  constexpr int kQuads = kDim / 4;
  constexpr int kAhead = 16;
  const auto* parts = reinterpret_cast<const float4*>(partials) + first_part * kRows * kQuads;
  for (int i = threadIdx.x; i < tile.RowCount() * kQuads; i += blockDim.x) {
    const int row = i / kQuads;
    float2 whole;
    const float4 sum = AddUpParts<kAhead>(
        active, [&](int part) { return __ldcg(states + (first_part + part) * kRows + row); },
        [&](int part) { return __ldcg(parts + static_cast<int64_t>(part) * kRows * kQuads + i); },
        whole);
    StoreOut(p, tile.OutOf(p, row) + i % kQuads * 4, Scaled(sum, Inverse(whole.y)));
  }
}

}  // namespace sluice::ops::cuda
