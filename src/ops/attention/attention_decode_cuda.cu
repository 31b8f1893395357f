#include <algorithm>
#include <bit>

#include "ops/attention/attention_device.cuh"
#include "ops/common/cuda/launch.cuh"
#include "ops/common/cuda/mma.cuh"

// Attention of few rows over bf16 pages, bound by reading KV once. The query rows and heads that
// share a KV head stand together in the 16 rows of a tensor-core tile. Warps take blocks of 16
// positions in turn, straight from memory into the tile's registers: both products may sum their
// inner dimension, and name their columns, in any order, so that each lane reads 16 bytes of a key
// or value where the fragment's layout would ask for 4. A sequence is cut into splits at multiples
// of kSplitUnit positions; the last block of a split to finish adds up all of them in order.
namespace sluice::ops::cuda {
namespace {

constexpr int kRows = 16;
constexpr int kBlock = 16;  // positions
// A warp's sums grow with the head's width: so many warps' stand together in shared memory.
template <int kDim>
constexpr int kWarps = kDim <= 128 ? 8 : 4;
template <int kDim>
constexpr int kThreads = kWarps<kDim> * kWarp;
// Positions of which every warp takes one block.
template <int kDim>
constexpr int kSplitUnit = kBlock * kWarps<kDim>;
constexpr float kLog2e = 1.4426950408889634f;
constexpr unsigned kAllLanes = 0xffffffffu;

// 16 positions' keys of a lane: of positions group and group + 8, eight dims of each 32, and of a
// rest of 16 dims four.
template <int kDim>
struct Keys {
  static constexpr int kWide = kDim / 32;
  static constexpr bool kRest = kDim % 32 != 0;
  uint4 wide[2][kWide];
  uint2 rest[2];
};

// Their values: of positions 2 pair, 2 pair + 1 and the same + 8, eight dims of each 64, and of a
// rest an eighth.
template <int kDim>
struct Values {
  static constexpr int kWide = kDim / 64;
  static constexpr int kRestDims = kDim % 64 / 8;
  uint4 wide[4][kWide];
  uint2 rest[4];
};

__device__ __forceinline__ uint32_t Word(const uint4& words, int i) {
  return i == 0 ? words.x : i == 1 ? words.y : i == 2 ? words.z : words.w;
}

// Rows below 0 are not read: they count as zeros.
template <int kDim>
__device__ __forceinline__ void LoadKeys(const __nv_bfloat16* k, int row, int lane,
                                         Keys<kDim>& keys) {
  const int group = lane / 4;
  const int pair = lane % 4;
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const int own = __shfl_sync(kAllLanes, row, 8 * j + group);
    const __nv_bfloat16* from = k + static_cast<int64_t>(own) * kDim;
#pragma unroll
    for (int c = 0; c < Keys<kDim>::kWide; ++c) {
      keys.wide[j][c] =
          own < 0 ? uint4{} : __ldcs(reinterpret_cast<const uint4*>(from + 32 * c + 8 * pair));
    }
    if constexpr (Keys<kDim>::kRest) {
      constexpr int kBase = 32 * Keys<kDim>::kWide;
      keys.rest[j] =
          own < 0 ? uint2{} : __ldcs(reinterpret_cast<const uint2*>(from + kBase + 4 * pair));
    }
  }
}

template <int kDim>
__device__ __forceinline__ void LoadValues(const __nv_bfloat16* v, int row, int lane,
                                           Values<kDim>& values) {
  const int group = lane / 4;
  const int pair = lane % 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int own = __shfl_sync(kAllLanes, row, 2 * pair + i % 2 + 8 * (i / 2));
    const __nv_bfloat16* from = v + static_cast<int64_t>(own) * kDim;
#pragma unroll
    for (int c = 0; c < Values<kDim>::kWide; ++c) {
      values.wide[i][c] =
          own < 0 ? uint4{} : __ldcs(reinterpret_cast<const uint4*>(from + 64 * c + 8 * group));
    }
    constexpr int kRest = Values<kDim>::kRestDims;
    const __nv_bfloat16* rest = from + 64 * Values<kDim>::kWide + kRest * group;
    if constexpr (kRest == 4) {
      values.rest[i] = own < 0 ? uint2{} : __ldcs(reinterpret_cast<const uint2*>(rest));
    } else if constexpr (kRest == 2) {
      values.rest[i].x = own < 0 ? 0u : __ldcs(reinterpret_cast<const uint32_t*>(rest));
    }
  }
}

// Two rows' elements j of words that hold two each: the b fragment of two positions.
__device__ __forceinline__ uint32_t Pair(uint32_t first, uint32_t second, int j) {
  return __byte_perm(first, second, j % 2 == 0 ? 0x5410 : 0x7632);
}

// The tile's queries as a fragments, in shared memory: [k step][lane] of four words, rounded to
// bf16, in the order of dims in which Keys lie.
template <int kDim>
__device__ void StoreQueries(const AttentionParams& p, int token, int kv_head, int first_row,
                             int rows, uint4* shared) {
  constexpr int kSteps = kDim / 16;
  const int group_heads = p.num_heads / p.num_kv_heads;
  for (int i = threadIdx.x; i < kSteps * kWarp; i += kThreads<kDim>) {
    const int step = i / kWarp;
    const int lane = i % kWarp;
    const int pair = lane % 4;
    // A step of a whole 32 is half of each lane's eight dims; the rest's is all of its four.
    const int dim =
        step / 2 < kDim / 32 ? step / 2 * 32 + pair * 8 + step % 2 * 4 : kDim / 32 * 32 + pair * 4;
    uint32_t words[4] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first_row + lane / 4 + 8 * half;
      if (row >= rows) continue;
      const float* q = p.q + (token + row / group_heads) * p.q_token_stride +
                       (kv_head * group_heads + row % group_heads) * p.q_head_stride + dim;
      words[half] = PackPair<__nv_bfloat16>(q[0], q[1]);
      words[half + 2] = PackPair<__nv_bfloat16>(q[2], q[3]);
    }
    shared[i] = {words[0], words[1], words[2], words[3]};
  }
}

// What a warp has added up of rows group and group + 8.
template <int kDim>
struct Sums {
  float largest[2] = {-INFINITY, -INFINITY};  // of scores times log2(e)
  float total[2] = {};                        // of this lane's positions
  float out[kDim / 8][4] = {};
};

// Scores of the tile against 16 positions.
template <int kDim>
__device__ __forceinline__ void Score(const uint4* queries, int lane, const Keys<kDim>& keys,
                                      float (&scores)[2][4]) {
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    const uint4 q = queries[step * kWarp + lane];
    const uint32_t a[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      if (step / 2 < Keys<kDim>::kWide) {
        const uint4& words = keys.wide[j][step / 2];
        Mma<__nv_bfloat16>(scores[j], a, step % 2 == 0 ? words.x : words.z,
                           step % 2 == 0 ? words.y : words.w);
      } else {
        Mma<__nv_bfloat16>(scores[j], a, keys.rest[j].x, keys.rest[j].y);
      }
    }
  }
}

// Scores to weights, as a fragment of the second product; moves the softmax on.
template <int kDim>
__device__ __forceinline__ void Weigh(float (&scores)[2][4], Sums<kDim>& sums, uint32_t (&a)[4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float now = sums.largest[half];
#pragma unroll
    for (int i = 0; i < 4; ++i) now = fmaxf(now, scores[i / 2][2 * half + i % 2]);
    now = fmaxf(now, __shfl_xor_sync(kAllLanes, now, 1));
    now = fmaxf(now, __shfl_xor_sync(kAllLanes, now, 2));
    const float base = now == -INFINITY ? 0.0f : now;  // a row that saw nothing yet
    const float correction = Exp2(sums.largest[half] - base);
    sums.largest[half] = now;
    sums.total[half] *= correction;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float& score = scores[i / 2][2 * half + i % 2];
      score = Exp2(score - base);
      sums.total[half] += score;
    }
#pragma unroll
    for (int j = 0; j < kDim / 8; ++j) {
      sums.out[j][2 * half] *= correction;
      sums.out[j][2 * half + 1] *= correction;
    }
    a[half] = PackPair<__nv_bfloat16>(scores[0][2 * half], scores[0][2 * half + 1]);
    a[half + 2] = PackPair<__nv_bfloat16>(scores[1][2 * half], scores[1][2 * half + 1]);
  }
}

template <int kDim>
__device__ __forceinline__ void AddValues(const uint32_t (&a)[4], const Values<kDim>& values,
                                          Sums<kDim>& sums) {
#pragma unroll
  for (int c = 0; c < Values<kDim>::kWide; ++c) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      Mma<__nv_bfloat16>(sums.out[8 * c + j], a,
                         Pair(Word(values.wide[0][c], j / 2), Word(values.wide[1][c], j / 2), j),
                         Pair(Word(values.wide[2][c], j / 2), Word(values.wide[3][c], j / 2), j));
    }
  }
#pragma unroll
  for (int j = 0; j < Values<kDim>::kRestDims; ++j) {
    const auto word = [&](int i) { return j / 2 == 0 ? values.rest[i].x : values.rest[i].y; };
    Mma<__nv_bfloat16>(sums.out[8 * Values<kDim>::kWide + j], a, Pair(word(0), word(1), j),
                       Pair(word(2), word(3), j));
  }
}

// What the tile's rows see: of a lane's two rows each, and of all.
struct TileRanges {
  VisibleRange own[2];
  int begin;        // of the union
  int end;          // of the union
  int common_from;  // from here on and
  int common_to;    // up to here every row sees every position
};

__device__ TileRanges RangesOfTile(const AttentionParams& p, int s, int token, int first_row,
                                   int rows, int lane) {
  const int group_heads = p.num_heads / p.num_kv_heads;
  TileRanges tile{{}, kNoTree, 0, 0, kNoTree};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first_row + lane / 4 + 8 * half;
    tile.own[half] = {0, 0, kNoTree, 0};
    if (row >= rows) continue;
    const VisibleRange range = RangeOfRow(p.tables, s, token + row / group_heads, p.window);
    tile.own[half] = range;
    tile.begin = min(tile.begin, range.begin);
    tile.end = max(tile.end, range.end);
    tile.common_from = max(tile.common_from, range.begin);
    tile.common_to = min(tile.common_to, min(range.end, range.tree_begin));
  }
#pragma unroll
  for (int offset = 4; offset < kWarp; offset *= 2) {
    tile.begin = min(tile.begin, __shfl_xor_sync(kAllLanes, tile.begin, offset));
    tile.end = max(tile.end, __shfl_xor_sync(kAllLanes, tile.end, offset));
    tile.common_from = max(tile.common_from, __shfl_xor_sync(kAllLanes, tile.common_from, offset));
    tile.common_to = min(tile.common_to, __shfl_xor_sync(kAllLanes, tile.common_to, offset));
  }
  return tile;
}

// Where the key of position `first + lane % 16` lies, in rows; -1 outside [begin, end).
__device__ __forceinline__ int RowOfLane(const AttentionParams& p, const int32_t* pages,
                                         int page_shift, int kv_head, int first, int begin, int end,
                                         int lane) {
  const int position = first + lane % kBlock;
  if (position < begin || position >= end) return -1;
  const int index = page_shift >= 0 ? position >> page_shift : position / p.page_size;
  return (pages[index] * p.num_kv_heads + kv_head) * p.page_size + position - index * p.page_size;
}

struct DecodeParams {
  AttentionParams attention;
  int32_t splits;      // blocks for a tile's splits
  int32_t row_blocks;  // tiles for a sequence's rows of a KV head
  int32_t max_rows;    // sequences with more are not worked on
  int32_t page_shift;  // page_size is 1 << page_shift, or -1
  float* partials;     // [sequences, num_kv_heads, row_blocks, splits, kRows, kDim]
  float2* states;      // [sequences, num_kv_heads, row_blocks, splits, kRows] largest and total
  int32_t* counters;   // [sequences, kCounters], zeros before and after
};

template <int kDim>
struct Shared {
  static constexpr int kStride = kDim + 4;  // floats of a row: rows start in different banks
  uint4 queries[kDim / 16 * kWarp];
  float2 states[kWarps<kDim>][kRows];
  float out[kWarps<kDim>][kRows][kStride];
};

// One warp's blocks of positions in [begin, end).
template <int kDim>
__device__ __forceinline__ void RunWarp(const DecodeParams& params, const TileRanges& tile, int s,
                                        int kv_head, int begin, int end, const uint4* queries,
                                        Sums<kDim>& sums) {
  constexpr bool kAhead = kDim <= 128;  // registers for two blocks
  const AttentionParams& p = params.attention;
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const auto* k = static_cast<const __nv_bfloat16*>(p.k);
  const auto* v = static_cast<const __nv_bfloat16*>(p.v);
  const int32_t* pages = p.tables.page_table + static_cast<int64_t>(s) * p.tables.max_pages;
  const auto row_at = [&](int first) {
    return RowOfLane(p, pages, params.page_shift, kv_head, first, begin, end, lane);
  };
  const float scale = p.scale * kLog2e;
  // Blocks go to warps by their absolute number.
  int first = begin / kSplitUnit<kDim> * kSplitUnit<kDim> + warp * kBlock;
  if (first + kBlock <= begin) first += kSplitUnit<kDim>;
  Keys<kDim> keys;
  Values<kDim> values;
  int row = row_at(first);
  int next_row = row_at(first + kSplitUnit<kDim>);
  if constexpr (kAhead) {
    LoadKeys<kDim>(k, row, lane, keys);
    LoadValues<kDim>(v, row, lane, values);
  }
  for (; first < end; first += kSplitUnit<kDim>) {
    if constexpr (!kAhead) LoadKeys<kDim>(k, row, lane, keys);
    float scores[2][4] = {};
    Score<kDim>(queries, lane, keys, scores);
    const int value_row = row;
    row = next_row;
    next_row = row_at(first + 2 * kSplitUnit<kDim>);
    if constexpr (kAhead) {
      LoadKeys<kDim>(k, row, lane, keys);
    } else {
      LoadValues<kDim>(v, value_row, lane, values);
    }
    const bool whole = first >= tile.common_from && first + kBlock <= tile.common_to;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float& score = scores[i / 4][i % 4];
      const int position = first + 8 * (i / 4) + 2 * (lane % 4) + i % 2;
      score = whole || Sees(tile.own[i % 4 / 2], position) ? score * scale : -INFINITY;
    }
    uint32_t weights[4];
    Weigh<kDim>(scores, sums, weights);
    AddValues<kDim>(weights, values, sums);
    if constexpr (kAhead) LoadValues<kDim>(v, row, lane, values);
  }
}

// A warp's sums to shared memory, dims in order.
template <int kDim>
__device__ __forceinline__ void StoreSums(const Sums<kDim>& sums, Shared<kDim>& shared) {
  const int warp = threadIdx.x / kWarp;
  const int group = threadIdx.x % kWarp / 4;
  const int pair = threadIdx.x % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float total = sums.total[half];
    total += __shfl_xor_sync(kAllLanes, total, 1);
    total += __shfl_xor_sync(kAllLanes, total, 2);
    if (pair == 0) shared.states[warp][group + 8 * half] = {sums.largest[half], total};
    float* row = shared.out[warp][group + 8 * half];
#pragma unroll
    for (int j = 0; j < kDim / 8; ++j) {
      constexpr int kWhole = Values<kDim>::kWide * 8;
      const int width = j < kWhole ? 8 : Values<kDim>::kRestDims;
      const int base = j < kWhole ? j / 8 * 64 + j % 8 : kWhole * 8 + j - kWhole;
      row[base + width * 2 * pair] = sums.out[j][2 * half];
      row[base + width * (2 * pair + 1)] = sums.out[j][2 * half + 1];
    }
  }
}

__device__ __forceinline__ void StoreOut(const AttentionParams& p, int64_t at, float4 value) {
  const float values[] = {value.x, value.y, value.z, value.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (p.out_dtype == DType::kF32) static_cast<float*>(p.out)[at + i] = values[i];
    if (p.out_dtype == DType::kBF16) {
      static_cast<__nv_bfloat16*>(p.out)[at + i] = FromFloat<__nv_bfloat16>(values[i]);
    }
    if (p.out_dtype == DType::kF16) {
      static_cast<__half*>(p.out)[at + i] = FromFloat<__half>(values[i]);
    }
  }
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
__device__ float2 WeighParts(float2* parts, int count, int stride) {
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

// One block a split of a tile: grid (splits, num_kv_heads * row_blocks, sequences).
template <int kDim>
__global__ void __launch_bounds__(kThreads<kDim>, 1) DecodeKernel(const DecodeParams params) {
  extern __shared__ __align__(16) char memory[];
  Shared<kDim>& shared = *reinterpret_cast<Shared<kDim>*>(memory);
  __shared__ float factors[kRows];
  __shared__ bool is_last;
  const AttentionParams& p = params.attention;
  const int s = blockIdx.z;
  const int kv_head = blockIdx.y / params.row_blocks;
  const int first_row = blockIdx.y % params.row_blocks * kRows;
  const int group_heads = p.num_heads / p.num_kv_heads;
  const int token = p.tables.query_begin[s];
  const int rows = (p.tables.query_begin[s + 1] - token) * group_heads;
  if (rows > params.max_rows || first_row >= rows) return;
  const int tile_rows = min(kRows, rows - first_row);
  const int lane = threadIdx.x % kWarp;
  const TileRanges tile = RangesOfTile(p, s, token, first_row, rows, lane);

  // Splits are alike, multiples of kSplitUnit<kDim>, and start at multiples of their length's unit.
  const int begin_unit = tile.begin < tile.end ? tile.begin / kSplitUnit<kDim> : 0;
  const int units = tile.begin < tile.end ? CeilDiv(tile.end, kSplitUnit<kDim>) - begin_unit : 0;
  const int split_units = max(1, CeilDiv(units, params.splits));
  const int active = max(1, CeilDiv(units, split_units));
  const int split = blockIdx.x;
  if (split >= active) return;
  const int begin = max(tile.begin, (begin_unit + split * split_units) * kSplitUnit<kDim>);
  const int end = min(tile.end, (begin_unit + (split + 1) * split_units) * kSplitUnit<kDim>);

  StoreQueries<kDim>(p, token, kv_head, first_row, rows, shared.queries);
  __syncthreads();
  Sums<kDim> sums;
  if (begin < end) RunWarp<kDim>(params, tile, s, kv_head, begin, end, shared.queries, sums);
  StoreSums<kDim>(sums, shared);
  __syncthreads();

  // The warps' sums become the split's.
  const int64_t unit = static_cast<int64_t>(s) * gridDim.y + blockIdx.y;
  const int64_t part = unit * params.splits + split;
  for (int row = threadIdx.x / kWarp; row < kRows; row += kWarps<kDim>) {
    const float2 whole = WeighParts(&shared.states[0][row], kWarps<kDim>, kRows);
    if (lane != 0) continue;
    factors[row] = Inverse(whole.y);
    if (active > 1) params.states[part * kRows + row] = whole;
  }
  __syncthreads();
  constexpr int kQuads = kDim / 4;
  const auto out_at = [&](int row, int quad) {
    const int64_t query = token + (first_row + row) / group_heads;
    const int64_t head = kv_head * group_heads + (first_row + row) % group_heads;
    return query * p.out_token_stride + head * p.out_head_stride + quad * 4;
  };
  for (int i = threadIdx.x; i < tile_rows * kQuads; i += kThreads<kDim>) {
    const int row = i / kQuads;
    const int quad = i % kQuads;
    float4 sum{};
#pragma unroll
    for (int w = 0; w < kWarps<kDim>; ++w) {
      sum = AddScaled(sum, shared.states[w][row].x,
                      *reinterpret_cast<const float4*>(&shared.out[w][row][quad * 4]));
    }
    if (active == 1) {
      StoreOut(p, out_at(row, quad), Scaled(sum, factors[row]));
    } else {
      reinterpret_cast<float4*>(params.partials)[(part * kRows + row) * kQuads + quad] = sum;
    }
  }
  if (active == 1) return;

  // The last block of the tile adds up the splits.
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    int32_t* counter = params.counters + static_cast<int64_t>(s) * kAttentionCounters + blockIdx.y;
    is_last = atomicAdd(counter, 1) == active - 1;
    if (is_last) *counter = 0;
  }
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  auto* states = reinterpret_cast<float2*>(&shared.out[0][0][0]);  // [active][kRows]
  const int64_t first_part = unit * params.splits;
  for (int i = threadIdx.x; i < active * kRows; i += kThreads<kDim>) {
    states[i] = __ldcg(params.states + first_part * kRows + i);
  }
  __syncthreads();
  for (int row = threadIdx.x / kWarp; row < kRows; row += kWarps<kDim>) {
    const float2 whole = WeighParts(states + row, active, kRows);
    if (lane == 0) factors[row] = Inverse(whole.y);
  }
  __syncthreads();
  const auto* partials = reinterpret_cast<const float4*>(params.partials);
  for (int i = threadIdx.x; i < tile_rows * kQuads; i += kThreads<kDim>) {
    const int row = i / kQuads;
    const int quad = i % kQuads;
    float4 sum{};
#pragma unroll 8
    for (int other = 0; other < active; ++other) {
      const float4 value = __ldcg(partials + ((first_part + other) * kRows + row) * kQuads + quad);
      sum = AddScaled(sum, states[other * kRows + row].x, value);
    }
    StoreOut(p, out_at(row, quad), Scaled(sum, factors[row]));
  }
}

template <int kDim>
void LaunchDecode(const DecodeParams& params, CudaStream& stream) {
  const AttentionParams& p = params.attention;
  const LaunchShape shape{
      .grid = dim3(params.splits, p.num_kv_heads * params.row_blocks, p.tables.sequences),
      .block = kThreads<kDim>,
      .shared_bytes = sizeof(Shared<kDim>)};
  AllowShared("attention_decode", &DecodeKernel<kDim>, shape.shared_bytes);
  Launch("attention_decode", &DecodeKernel<kDim>, shape, stream, params);
}

// Into how many splits a tile is cut: those that leave the multiprocessors idle least, where each
// runs one block at a time.
int ChooseSplits(int tiles, int units, int multiprocessors) {
  // What a block costs beside its positions, and what a split adds to the last block's work, in
  // units of positions.
  constexpr double kBlockCost = 2.0;
  constexpr double kSplitCost = 0.05;
  constexpr int kMaxSplits = 64;
  int best = 1;
  double best_cost = 0.0;
  for (int splits = 1; splits <= std::min(units, kMaxSplits); ++splits) {
    const double waves = CeilDiv(tiles * splits, multiprocessors);
    const double cost = waves * (CeilDiv(units, splits) + kBlockCost) + splits * kSplitCost;
    if (splits > 1 && cost >= best_cost) continue;
    best = splits;
    best_cost = cost;
  }
  return best;
}

}  // namespace

bool HasFastAttention(const AttentionParams& params) {
  return params.dtype == DType::kBF16 && params.v != nullptr &&
         WithFastDim(params.key_dim, [](auto) {});
}

DecodePlan PlanDecode(const AttentionParams& params, int max_rows, int multiprocessors) {
  const int group_heads = params.num_heads / params.num_kv_heads;
  const int rows = std::min(max_rows, params.tables.max_query_count * group_heads);
  const int row_blocks = CeilDiv(rows, kRows);
  const int heads = params.num_kv_heads * row_blocks;
  const int tiles = params.tables.sequences * heads;
  int length = params.tables.max_kv_length;
  if (params.window > 0) {
    length = std::min(length, params.window + params.tables.max_query_count + kBlock);
  }
  const int unit = params.key_dim <= 128 ? kSplitUnit<128> : kSplitUnit<256>;
  const int splits = heads > kAttentionCounters
                         ? 1
                         : ChooseSplits(tiles, std::max(1, CeilDiv(length, unit)), multiprocessors);
  const int64_t parts = splits == 1 ? 0 : int64_t{tiles} * splits * kRows;
  return {.max_rows = max_rows,
          .splits = splits,
          .row_blocks = row_blocks,
          .partial_floats = parts * params.key_dim,
          .state_floats = parts * 2};
}

void DecodeAttention(const AttentionParams& params, const DecodePlan& plan, float* partials,
                     float* states, CudaStream& stream) {
  const auto page_size = static_cast<unsigned>(params.page_size);
  const DecodeParams decode{
      .attention = params,
      .splits = plan.splits,
      .row_blocks = plan.row_blocks,
      .max_rows = plan.max_rows,
      .page_shift = std::has_single_bit(page_size) ? std::countr_zero(page_size) : -1,
      .partials = partials,
      .states = reinterpret_cast<float2*>(states),
      .counters = params.tables.counters};
  WithFastDim(params.key_dim, [&](auto dim) { LaunchDecode<dim.value>(decode, stream); });
}

}  // namespace sluice::ops::cuda
