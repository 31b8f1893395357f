
#include "ops/attention/attention_splits.cuh"
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
__device__ void StoreQueries(const AttentionParams& p, const SplitTile& tile, uint4* shared) {
  constexpr int kSteps = kDim / 16;
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
      const int row = lane / 4 + 8 * half;
      if (row >= tile.RowCount()) continue;
      const float* q =
          p.q + tile.TokenOf(row) * p.q_token_stride + tile.HeadOf(row) * p.q_head_stride + dim;
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

// Scores to weights, as a fragment of the second product; moves the softmax on. Without `second`
// there are no rows from the eighth on.
template <int kDim>
__device__ __forceinline__ void Weigh(bool second, float (&scores)[2][4], Sums<kDim>& sums,
                                      uint32_t (&a)[4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    a[half] = a[half + 2] = 0;
    if (half == 1 && !second) break;
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

struct DecodeParams {
  AttentionParams attention;
  int32_t splits;      // blocks for a tile's splits
  int32_t row_blocks;  // tiles for a sequence's rows of a KV head
  int32_t max_rows;    // sequences with more are not worked on
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

// One warp's blocks of the split's positions. All warps call it.
template <int kDim>
__device__ __forceinline__ void RunWarp(const DecodeParams& params, const SplitTile& tile,
                                        const TileRanges& ranges, const Split& split,
                                        uint4* queries, Sums<kDim>& sums) {
  constexpr bool kAhead = kDim <= 128;  // registers for two blocks
  const AttentionParams& p = params.attention;
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const auto* k = static_cast<const __nv_bfloat16*>(p.k);
  const auto* v = static_cast<const __nv_bfloat16*>(p.v);
  const int begin = split.begin;
  const int end = split.end;
  const int written = WrittenBefore(p, tile);
  const auto row_at = [&](int first) {
    const int position = first + lane % kBlock;
    return position < begin || position >= end
               ? -1
               : RowOfPosition(p, tile.sequence, tile.kv_head, position);
  };
  const float scale = p.scale * kLog2e;
  const bool second = tile.RowCount() > kRows / 2;
  // Blocks go to warps by their absolute number.
  int first = begin / kSplitUnit<kDim> * kSplitUnit<kDim> + warp * kBlock;
  if (first + kBlock <= begin) first += kSplitUnit<kDim>;
  Keys<kDim> keys;
  Values<kDim> values;
  int row = row_at(first);
  int next_row = row_at(first + kSplitUnit<kDim>);
  const auto load_first = [&] {
    LoadKeys<kDim>(k, row, lane, keys);
    LoadValues<kDim>(v, row, lane, values);
  };
  const bool early = first + kBlock <= written;
  if (kAhead && early) load_first();
  WaitForEarlier();
  if (kAhead && !early) load_first();
  // While the first block is on its way.
  StoreQueries<kDim>(p, tile, queries);
  __syncthreads();
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
    const bool whole = first >= ranges.common_from && first + kBlock <= ranges.common_to;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float& score = scores[i / 4][i % 4];
      const int position = first + 8 * (i / 4) + 2 * (lane % 4) + i % 2;
      score = whole || Sees(ranges.own[i % 4 / 2], position) ? score * scale : -INFINITY;
    }
    uint32_t weights[4];
    Weigh<kDim>(second, scores, sums, weights);
    AddValues<kDim>(weights, values, sums);
    if constexpr (kAhead) LoadValues<kDim>(v, row, lane, values);
  }
}

// A warp's sums to shared memory, dims in order.
template <int kDim>
__device__ __forceinline__ void StoreSums(bool second, const Sums<kDim>& sums,
                                          Shared<kDim>& shared) {
  const int warp = threadIdx.x / kWarp;
  const int group = threadIdx.x % kWarp / 4;
  const int pair = threadIdx.x % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (half == 1 && !second) break;
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

// One block a split of a tile: grid (num_kv_heads * row_blocks, splits, sequences).
template <int kDim>
__global__ void __launch_bounds__(kThreads<kDim>, 1) DecodeKernel(const DecodeParams params) {
  extern __shared__ __align__(16) char memory[];
  Shared<kDim>& shared = *reinterpret_cast<Shared<kDim>*>(memory);
  LetNextStart();
  const AttentionParams& p = params.attention;
  const SplitTile tile = PlaceTile(p, params.row_blocks);
  if (tile.rows > params.max_rows || tile.first_row >= tile.rows) return;
  const int lane = threadIdx.x % kWarp;
  const TileRanges ranges = RangesOfTile(p, tile, lane);
  const Split split = CutTile(ranges, params.splits, kSplitUnit<kDim>);
  if (split.index >= split.active) return;

  Sums<kDim> sums;
  if (split.begin < split.end) {
    RunWarp<kDim>(params, tile, ranges, split, shared.queries, sums);
  } else {
    WaitForEarlier();
  }
  StoreSums<kDim>(tile.RowCount() > kRows / 2, sums, shared);
  __syncthreads();

  // The warps' sums become the split's.
  const int64_t part = PartOf(params.splits, split.index);
  constexpr int kQuads = kDim / 4;
  for (int i = threadIdx.x; i < tile.RowCount() * kQuads; i += kThreads<kDim>) {
    const int row = i / kQuads;
    const int quad = i % kQuads;
    float2 whole;
    const float4 sum = AddUpParts<kWarps<kDim>>(
        kWarps<kDim>, [&](int warp) { return shared.states[warp][row]; },
        [&](int warp) {
          return *reinterpret_cast<const float4*>(&shared.out[warp][row][quad * 4]);
        },
        whole);
    if (split.active == 1) {
      StoreOut(p, tile.OutOf(p, row) + quad * 4, Scaled(sum, Inverse(whole.y)));
      continue;
    }
    reinterpret_cast<float4*>(params.partials)[(part * kRows + row) * kQuads + quad] = sum;
    if (quad == 0) params.states[part * kRows + row] = whole;
  }
  if (split.active == 1 || !IsLastOfTile(params.counters, split.active)) return;
  AddUpSplits<kDim>(p, tile, split.active, params.partials, params.states,
                    PartOf(params.splits, 0));
}

template <int kDim>
void LaunchDecode(const DecodeParams& params, CudaStream& stream) {
  static_assert(sizeof(Shared<kDim>) <= kPortableShared);
  const AttentionParams& p = params.attention;
  const LaunchShape shape{
      .grid = dim3(p.num_kv_heads * params.row_blocks, params.splits, p.tables.sequences),
      .block = kThreads<kDim>,
      .shared_bytes = sizeof(Shared<kDim>)};
  AllowShared("attention_decode", &DecodeKernel<kDim>, shape.shared_bytes);
  LaunchEarly<&DecodeKernel<kDim>>("attention_decode", shape, stream, params);
}

}  // namespace

bool HasFastAttention(const AttentionParams& params) {
  return params.dtype == DType::kBF16 && params.v != nullptr &&
         WithFastDim(params.key_dim, [](auto) {});
}

SplitPlan PlanDecode(const AttentionParams& params, int max_rows, int multiprocessors) {
  const int unit = params.key_dim <= 128 ? kSplitUnit<128> : kSplitUnit<256>;
  return PlanSplits(params, max_rows, unit, multiprocessors);
}

void DecodeAttention(const AttentionParams& params, const SplitPlan& plan, float* partials,
                     float* states, CudaStream& stream) {
  const DecodeParams decode{.attention = params,
                            .splits = plan.splits,
                            .row_blocks = plan.row_blocks,
                            .max_rows = plan.max_rows,
                            .partials = partials,
                            .states = reinterpret_cast<float2*>(states),
                            .counters = params.tables.counters};
  WithFastDim(params.key_dim, [&](auto dim) { LaunchDecode<dim.value>(decode, stream); });
}

}  // namespace sluice::ops::cuda
