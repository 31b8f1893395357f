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

// Turns (largest, total) of `count` parts of a row, `stride` apart, into the parts' weights, and
// gives largest and total of all. One warp works on it together.
__device__ inline float2 WeighParts(float2* parts, int count, int stride) {
  const int lane = threadIdx.x % kWarp;
  float largest = -INFINITY;
  for (int i = lane; i < count; i += kWarp) largest = fmaxf(largest, parts[i * stride].x);
  largest = WarpMax(largest);
  float total = 0.0f;
  for (int i = lane; i < count; i += kWarp) {
    float2& part = parts[i * stride];
    const float weight = part.x == -INFINITY ? 0.0f : Exp2(part.x - largest);
    total += weight * part.y;
    part.x = weight;
  }
  return {largest, WarpSum(total)};
}

__device__ __forceinline__ float Inverse(float total) {
  return total > 0.0f ? 1.0f / total : 0.0f;
}

// Whether the block is the last of its tile's `active` to come here; what the others wrote is then
// to be seen. All threads call it.
__device__ inline bool IsLastOfTile(int32_t* counters, int active) {
  __shared__ bool is_last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    int32_t* counter =
        counters + static_cast<int64_t>(blockIdx.z) * kAttentionCounters + blockIdx.x;
    is_last = atomicAdd(counter, 1) == active - 1;
    if (is_last) *counter = 0;
  }
  __syncthreads();
  __threadfence();
  return is_last;
}

// Adds up the splits' sums in their order and stores the tile's result. `shared_states` has room
// for kRows * active entries, `factors` for kRows.
template <int kDim>
__device__ inline void AddUpSplits(const AttentionParams& p, const SplitTile& tile, int active,
                                   const float* partials, const float2* states, int64_t first_part,
                                   float2* shared_states, float* factors) {
  constexpr int kQuads = kDim / 4;
  constexpr int kAhead = 16;  // loads under way
  for (int i = threadIdx.x; i < active * kRows; i += blockDim.x) {
    shared_states[i] = __ldcg(states + first_part * kRows + i);
  }
  __syncthreads();
  for (int row = threadIdx.x / kWarp; row < kRows; row += blockDim.x / kWarp) {
    const float2 whole = WeighParts(shared_states + row, active, kRows);
    if (threadIdx.x % kWarp == 0) factors[row] = Inverse(whole.y);
  }
  __syncthreads();
  const auto* parts = reinterpret_cast<const float4*>(partials) + first_part * kRows * kQuads;
  for (int i = threadIdx.x; i < tile.RowCount() * kQuads; i += blockDim.x) {
    const int row = i / kQuads;
    float4 sum{};
    for (int first = 0; first < active; first += kAhead) {
      float4 values[kAhead];
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        if (first + j < active) {
          values[j] = __ldcg(parts + static_cast<int64_t>(first + j) * kRows * kQuads + i);
        }
      }
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        if (first + j < active) {
          sum = AddScaled(sum, shared_states[(first + j) * kRows + row].x, values[j]);
        }
      }
    }
    StoreOut(p, tile.OutOf(p, row) + i % kQuads * 4, Scaled(sum, factors[row]));
  }
}

}  // namespace sluice::ops::cuda
