#pragma once

#include "ops/attention/attention_device.cuh"
#include "ops/common/cuda/launch.cuh"
#include "ops/common/cuda/math.cuh"
#include "ops/common/cuda/mma.cuh"

// What the kernels of many rows share, whatever does their products. A form F says how a block is
// cut: kDim, kWarps, kThreads, kTiles (of 16 rows, a warp), kRows (a block) and kPositions (a
// tile).
namespace sluice::ops::cuda {

inline constexpr float kLog2e = 1.4426950408889634f;
inline constexpr unsigned kAllLanes = 0xffffffffu;

struct PrefillParams {
  AttentionParams attention;
  int32_t row_tiles;  // of a sequence's rows of a KV head
  int32_t max_rows;   // sequences with no more are left out
  bool wide_q;        // rows of q can be read by 16 bytes
  bool wide_out;      // rows of out can be written by 16 bytes
};

// Rows of q and out can be read and written by 16 bytes where these are.
inline PrefillParams PrefillParamsOf(const AttentionParams& p, int max_rows) {
  constexpr uintptr_t kBytes = 16;
  return {
      .attention = p,
      .row_tiles = 0,
      .max_rows = max_rows,
      .wide_q = IsMultipleOf(p.q, kBytes) && p.q_token_stride % 4 == 0 && p.q_head_stride % 4 == 0,
      .wide_out =
          IsMultipleOf(p.out, kBytes) && p.out_token_stride % 8 == 0 && p.out_head_stride % 8 == 0};
}

// Sets the tiles of rows of a call, and says how a kernel of form F with so much shared memory is
// launched.
template <class F>
LaunchShape PrefillShape(PrefillParams& params, size_t shared_bytes) {
  const AttentionParams& p = params.attention;
  const int rows = p.tables.max_query_count * (p.num_heads / p.num_kv_heads);
  params.row_tiles = CeilDiv(rows, F::kRows);
  return {.grid = dim3(p.num_kv_heads, params.row_tiles, p.tables.sequences),
          .block = F::kThreads,
          .shared_bytes = shared_bytes};
}

// By products of warpgroups, where HasAttentionWarpgroups says so; in fixed splits or with one sum
// a row.
void WarpgroupPrefill(const PrefillParams& params, bool fixed_splits, CudaStream& stream);

// Which positions the block's rows see: some row any of [begin, end), every row all of
// [common_from, common_to).
struct Bounds {
  int begin;
  int end;
  int common_from;
  int common_to;
};

// The block's place: rows [first_row, rows) of a sequence and KV head, from `token` on.
struct Place {
  int sequence;
  int token;
  int kv_head;
  int group_heads;
  int first_row;
  int rows;

  __device__ int TokenOf(int row) const { return token + (first_row + row) / group_heads; }
  __device__ int HeadOf(int row) const {
    return kv_head * group_heads + (first_row + row) % group_heads;
  }
};

// What a block keeps in shared memory to know what its rows see.
template <class F>
struct Ranges {
  VisibleRange of_row[F::kRows];
  int32_t bounds[F::kWarps][4];
};

template <class F>
__device__ Bounds FindRanges(const AttentionParams& p, const Place& place, Ranges<F>& ranges) {
  Bounds own{kNoTree, 0, 0, kNoTree};
  for (int row = threadIdx.x; row < F::kRows; row += F::kThreads) {
    VisibleRange range{0, 0, kNoTree, 0};
    if (place.first_row + row < place.rows) {
      range = RangeOfRow(p.tables, place.sequence, place.TokenOf(row), p.window);
      own.begin = min(own.begin, range.begin);
      own.end = max(own.end, range.end);
      own.common_from = max(own.common_from, range.begin);
      own.common_to = min(own.common_to, min(range.end, range.tree_begin));
    }
    ranges.of_row[row] = range;
  }
  int32_t* bounds = ranges.bounds[threadIdx.x / kWarp];
  bounds[0] = __reduce_min_sync(kAllLanes, own.begin);
  bounds[1] = __reduce_max_sync(kAllLanes, own.end);
  bounds[2] = __reduce_max_sync(kAllLanes, own.common_from);
  bounds[3] = __reduce_min_sync(kAllLanes, own.common_to);
  __syncthreads();
  for (const auto& warp : ranges.bounds) {
    own.begin = min(own.begin, warp[0]);
    own.end = max(own.end, warp[1]);
    own.common_from = max(own.common_from, warp[2]);
    own.common_to = min(own.common_to, warp[3]);
  }
  return own;
}

// Where this thread's position of the tile lies in the pages, in rows; -1 for what no row of the
// block sees.
template <class F>
__device__ __forceinline__ int32_t FindKvRow(const AttentionParams& p, const Place& place,
                                             const Bounds& bounds, int first) {
  const int position = first + static_cast<int>(threadIdx.x);
  if (threadIdx.x >= F::kPositions || position < bounds.begin || position >= bounds.end) {
    return -1;
  }
  return RowOfPosition(p, place.sequence, place.kv_head, position);
}

template <class F>
__device__ __forceinline__ void KeepKvRow(int32_t row, int32_t* kv_rows) {
  if (threadIdx.x < F::kPositions) kv_rows[threadIdx.x] = row;
}

// What a warp has added up: of rows group and group + 8 of each of its tiles.
template <class F>
struct Sums {
  float largest[F::kTiles][2];  // of scores
  float total[F::kTiles][2];    // of this lane's positions
  float out[F::kTiles][F::kDim / 8][4];
};

template <class F>
using Scores = float[F::kTiles][F::kPositions / 8][4];

template <class F>
__device__ __forceinline__ void Clear(Sums<F>& sums) {
#pragma unroll
  for (int t = 0; t < F::kTiles; ++t) {
    sums.largest[t][0] = sums.largest[t][1] = -INFINITY;
    sums.total[t][0] = sums.total[t][1] = 0.0f;
#pragma unroll
    for (int j = 0; j < F::kDim / 8; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums.out[t][j][i] = 0.0f;
    }
  }
}

// Hides what the rows do not see of the tile of positions from `first` on; of a warp's rows the
// first `halves` eights alone.
template <class F>
__device__ __forceinline__ void Hide(const Ranges<F>& ranges, int first, Scores<F>& scores,
                                     int halves = 2) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int t = 0; t < F::kTiles; ++t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (half >= halves) break;
      const int row = (threadIdx.x / kWarp * F::kTiles + t) * 16 + lane / 4 + 8 * half;
      const VisibleRange range = ranges.of_row[row];
      const auto hide = [&](const auto& sees) {
#pragma unroll
        for (int n = 0; n < F::kPositions / 8; ++n) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            if (!sees(first + 2 * (lane % 4) + 8 * n + i)) scores[t][n][2 * half + i] = -INFINITY;
          }
        }
      };
      if (range.tree_begin == kNoTree) {
        // As Sees, in few instructions.
        const auto count = static_cast<unsigned>(max(range.end - range.begin, 0));
        hide([&](int at) { return static_cast<unsigned>(at - range.begin) < count; });
      } else {
        hide([&](int at) { return Sees(range, at); });
      }
    }
  }
}

// What a lane's sums are multiplied by when the largest score of a row moves.
template <class F>
using Corrections = float[F::kTiles][2];

// Scores to weights; moves the softmax on, but for the sums of values. Where a warp has no rows
// from the eighth on it does the first half alone.
template <class F>
__device__ __forceinline__ void Weigh(float scale, Scores<F>& scores, Sums<F>& sums,
                                      Corrections<F>& corrections, int halves = 2) {
#pragma unroll
  for (int t = 0; t < F::kTiles; ++t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      corrections[t][half] = 1.0f;
      if (half >= halves) break;
      float now = sums.largest[t][half];
#pragma unroll
      for (int n = 0; n < F::kPositions / 8; ++n) {
        now = fmaxf(now, fmaxf(scores[t][n][2 * half], scores[t][n][2 * half + 1]));
      }
      now = fmaxf(now, __shfl_xor_sync(kAllLanes, now, 1));
      now = fmaxf(now, __shfl_xor_sync(kAllLanes, now, 2));
      // Products that are rounded: where the largest stays, the correction is 1 and nothing moves.
      const float base = now == -INFINITY ? 0.0f : __fmul_rn(now, scale);  // saw nothing yet
      corrections[t][half] = Exp2(__fmul_rn(sums.largest[t][half], scale) - base);
      sums.largest[t][half] = now;
      float total = 0.0f;
#pragma unroll
      for (int n = 0; n < F::kPositions / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& score = scores[t][n][2 * half + i];
          score = Exp2(score * scale - base);
          total += score;
        }
      }
      sums.total[t][half] = sums.total[t][half] * corrections[t][half] + total;
    }
  }
}

template <class F>
__device__ __forceinline__ void Correct(const Corrections<F>& corrections, Sums<F>& sums) {
#pragma unroll
  for (int t = 0; t < F::kTiles; ++t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float correction = corrections[t][half];
      // Once the largest is found it seldom moves again.
      if (!__any_sync(kAllLanes, correction != 1.0f)) continue;
#pragma unroll
      for (int j = 0; j < F::kDim / 8; ++j) {
        sums.out[t][j][2 * half] *= correction;
        sums.out[t][j][2 * half + 1] *= correction;
      }
    }
  }
}

// Weights of 16 positions as a fragment of the second product.
__device__ __forceinline__ void PackWeights(const float (&low)[4], const float (&high)[4],
                                            uint32_t (&a)[4]) {
  a[0] = PackPair<__nv_bfloat16>(low[0], low[1]);
  a[1] = PackPair<__nv_bfloat16>(low[2], low[3]);
  a[2] = PackPair<__nv_bfloat16>(high[0], high[1]);
  a[3] = PackPair<__nv_bfloat16>(high[2], high[3]);
}

// Each lane's totals become those of whole rows.
template <class F>
__device__ __forceinline__ void AddUpTotals(Sums<F>& sums) {
#pragma unroll
  for (int t = 0; t < F::kTiles; ++t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float& total = sums.total[t][half];
      total += __shfl_xor_sync(kAllLanes, total, 1);
      total += __shfl_xor_sync(kAllLanes, total, 2);
    }
  }
}

// The sums over whole rows' totals.
template <class F>
__device__ __forceinline__ void Normalise(Sums<F>& sums) {
#pragma unroll
  for (int t = 0; t < F::kTiles; ++t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float total = sums.total[t][half];
      const float factor = total > 0.0f ? 1.0f / total : 0.0f;
#pragma unroll
      for (int j = 0; j < F::kDim / 8; ++j) {
        sums.out[t][j][2 * half] *= factor;
        sums.out[t][j][2 * half + 1] *= factor;
      }
    }
  }
}

// To `out` straight from the registers, two elements at a time.
template <class F, class Out>
__device__ __forceinline__ void StorePairs(const AttentionParams& p, const Place& place,
                                           const Sums<F>& sums) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int t = 0; t < F::kTiles; ++t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = (threadIdx.x / kWarp * F::kTiles + t) * 16 + lane / 4 + 8 * half;
      if (place.first_row + row >= place.rows) continue;
      Out* out = static_cast<Out*>(p.out) + place.TokenOf(row) * p.out_token_stride +
                 place.HeadOf(row) * p.out_head_stride + 2 * (lane % 4);
#pragma unroll
      for (int j = 0; j < F::kDim / 8; ++j) {
        out[8 * j] = FromFloat<Out>(sums.out[t][j][2 * half]);
        out[8 * j + 1] = FromFloat<Out>(sums.out[t][j][2 * half + 1]);
      }
    }
  }
}

// To `out` through the warp's own rows of the queries' shared memory, 16 bytes at a time.
template <class F, class Out>
__device__ __forceinline__ void StoreRows(const AttentionParams& p, const Place& place,
                                          const Sums<F>& sums, __nv_bfloat16* scratch) {
  const int lane = threadIdx.x % kWarp;
  const int warp_row = threadIdx.x / kWarp * F::kTiles * 16;
#pragma unroll
  for (int t = 0; t < F::kTiles; ++t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      __nv_bfloat16* row = scratch + (warp_row + t * 16 + lane / 4 + 8 * half) * F::kStride;
#pragma unroll
      for (int j = 0; j < F::kDim / 8; ++j) {
        *reinterpret_cast<uint32_t*>(row + 8 * j + 2 * (lane % 4)) =
            PackPair<Out>(sums.out[t][j][2 * half], sums.out[t][j][2 * half + 1]);
      }
    }
  }
  __syncwarp();
  constexpr int kPieces = F::kDim / 8;
  for (int i = lane; i < F::kTiles * 16 * kPieces; i += kWarp) {
    const int row = warp_row + i / kPieces;
    const int piece = i % kPieces;
    if (place.first_row + row >= place.rows) break;
    Out* out = static_cast<Out*>(p.out) + place.TokenOf(row) * p.out_token_stride +
               place.HeadOf(row) * p.out_head_stride + piece * 8;
    *reinterpret_cast<uint4*>(out) =
        *reinterpret_cast<const uint4*>(scratch + row * F::kStride + piece * 8);
  }
}

// The block's result to `out`; `scratch` has room for F::kRows rows of F::kStride elements.
template <class F>
__device__ __forceinline__ void StoreResult(const PrefillParams& params, const Place& place,
                                            const Sums<F>& sums, __nv_bfloat16* scratch) {
  const AttentionParams& p = params.attention;
  if (p.out_dtype == DType::kF32) {
    StorePairs<F, float>(p, place, sums);
  } else if (p.out_dtype == DType::kBF16) {
    params.wide_out ? StoreRows<F, __nv_bfloat16>(p, place, sums, scratch)
                    : StorePairs<F, __nv_bfloat16>(p, place, sums);
  } else {
    params.wide_out ? StoreRows<F, __half>(p, place, sums, scratch)
                    : StorePairs<F, __half>(p, place, sums);
  }
}

// The place of a block of the grid (num_kv_heads, row_tiles, sequences).
template <class F>
__device__ __forceinline__ Place PlaceBlock(const PrefillParams& params) {
  const AttentionParams& p = params.attention;
  Place place{};
  place.sequence = blockIdx.z;
  place.token = p.tables.query_begin[place.sequence];
  place.kv_head = blockIdx.x;
  place.group_heads = p.num_heads / p.num_kv_heads;
  // The last rows see most: they start first.
  place.first_row = (params.row_tiles - 1 - blockIdx.y) * F::kRows;
  place.rows = (p.tables.query_begin[place.sequence + 1] - place.token) * place.group_heads;
  return place;
}

// Four of a row's queries from `dim` on; zeros behind the sequence's last row.
__device__ __forceinline__ uint2 LoadQuad(const PrefillParams& params, const Place& place, int row,
                                          int dim) {
  const AttentionParams& p = params.attention;
  if (place.first_row + row >= place.rows) return {};
  const float* q =
      p.q + place.TokenOf(row) * p.q_token_stride + place.HeadOf(row) * p.q_head_stride + dim;
  const float4 value =
      params.wide_q ? *reinterpret_cast<const float4*>(q) : float4{q[0], q[1], q[2], q[3]};
  return {PackPair<__nv_bfloat16>(value.x, value.y), PackPair<__nv_bfloat16>(value.z, value.w)};
}

// The block's queries to shared memory, rounded; `place_of(row, dim)` says where. A thread reads
// `kAhead` pieces at a time.
template <class F, int kAhead = 4, class PlaceOf>
__device__ void LoadQueries(const PrefillParams& params, const Place& place, PlaceOf place_of) {
  constexpr int kQuads = F::kDim / 4;
#pragma unroll kAhead
  for (int i = threadIdx.x; i < F::kRows * kQuads; i += F::kThreads) {
    const int row = i / kQuads;
    const int dim = i % kQuads * 4;
    *reinterpret_cast<uint2*>(place_of(row, dim)) = LoadQuad(params, place, row, dim);
  }
}

// Starts copying a tile's keys or values. What no row sees becomes zeros. The loop is written out
// `kUnrolled` times.
template <class F, int kUnrolled = 16, class PlaceOf>
__device__ __forceinline__ void CopyTile(const void* pages, const int32_t* kv_rows,
                                         PlaceOf place_of) {
  constexpr int kPieces = F::kDim / 8;
  const auto* from = static_cast<const __nv_bfloat16*>(pages);
#pragma unroll kUnrolled
  for (int i = 0; i < F::kPositions * kPieces / F::kThreads; ++i) {
    const int index = i * F::kThreads + static_cast<int>(threadIdx.x);
    const int row = index / kPieces;
    const int dim = index % kPieces * 8;
    const int32_t kv_row = kv_rows[row];
    CopyAsync16(place_of(row, dim), from + static_cast<int64_t>(max(kv_row, 0)) * F::kDim + dim,
                kv_row >= 0);
  }
}

}  // namespace sluice::ops::cuda
