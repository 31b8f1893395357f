#include <algorithm>
#include <type_traits>

#include "ops/attention/attention_device.cuh"
#include "ops/common/cuda/launch.cuh"
#include "ops/common/cuda/mma.cuh"

// Attention of many rows over bf16 pages, bound by tensor cores. The query rows and heads that
// share a KV head stand together; a block has a tile of such rows in shared memory, each warp sums
// up its own of them, and tiles of positions pass by: copies of keys and values are started a whole
// product before they are waited for.
namespace sluice::ops::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr float kLog2e = 1.4426950408889634f;
constexpr unsigned kAllLanes = 0xffffffffu;

// How a width's block is cut: the sums of a warp's rows must fit its registers, and the block
// 100 KB of shared memory.
template <int kDim>
struct Form {
  static constexpr int kTiles = kDim <= 128 ? 2 : 1;  // of 16 rows, a warp
  static constexpr int kRows = kWarps * kTiles * 16;  // a block
  static constexpr int kPositions = kDim <= 128 ? 64 : 32;
  // Elements of a row in shared memory. An odd number of 16-byte pieces: eight rows' pieces lie in
  // different banks.
  static constexpr int kStride = kDim + 8;
};

struct PrefillParams {
  AttentionParams attention;
  int32_t row_tiles;  // of a sequence's rows of a KV head
  int32_t max_rows;   // sequences with no more are left out
  bool wide_q;        // rows of q can be read by 16 bytes
  bool wide_out;      // rows of out can be written by 16 bytes
};

template <int kDim>
struct Shared {
  __nv_bfloat16 q[Form<kDim>::kRows * Form<kDim>::kStride];
  // Keys and values of tiles in turn: two are being used or arriving, one is on its way.
  __nv_bfloat16 kv[3][Form<kDim>::kPositions * Form<kDim>::kStride];
  VisibleRange ranges[Form<kDim>::kRows];
  int32_t kv_rows[2][Form<kDim>::kPositions];  // of this tile of positions and the next
  int32_t bounds[kWarps][4];
};

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

template <int kDim>
__device__ Bounds FindRanges(const AttentionParams& p, const Place& place, Shared<kDim>& shared) {
  Bounds own{kNoTree, 0, 0, kNoTree};
  for (int row = threadIdx.x; row < Form<kDim>::kRows; row += kThreads) {
    VisibleRange range{0, 0, kNoTree, 0};
    if (place.first_row + row < place.rows) {
      range = RangeOfRow(p.tables, place.sequence, place.TokenOf(row), p.window);
      own.begin = min(own.begin, range.begin);
      own.end = max(own.end, range.end);
      own.common_from = max(own.common_from, range.begin);
      own.common_to = min(own.common_to, min(range.end, range.tree_begin));
    }
    shared.ranges[row] = range;
  }
  int32_t* bounds = shared.bounds[threadIdx.x / kWarp];
  bounds[0] = __reduce_min_sync(kAllLanes, own.begin);
  bounds[1] = __reduce_max_sync(kAllLanes, own.end);
  bounds[2] = __reduce_max_sync(kAllLanes, own.common_from);
  bounds[3] = __reduce_min_sync(kAllLanes, own.common_to);
  __syncthreads();
  for (const auto& warp : shared.bounds) {
    own.begin = min(own.begin, warp[0]);
    own.end = max(own.end, warp[1]);
    own.common_from = max(own.common_from, warp[2]);
    own.common_to = min(own.common_to, warp[3]);
  }
  return own;
}

// The block's queries to shared memory, rounded; zeros behind the sequence's last row.
template <int kDim>
__device__ void LoadQueries(const PrefillParams& params, const Place& place, Shared<kDim>& shared) {
  const AttentionParams& p = params.attention;
  constexpr int kQuads = kDim / 4;
  for (int i = threadIdx.x; i < Form<kDim>::kRows * kQuads; i += kThreads) {
    const int row = i / kQuads;
    const int dim = i % kQuads * 4;
    float4 value{};
    if (place.first_row + row < place.rows) {
      const float* q =
          p.q + place.TokenOf(row) * p.q_token_stride + place.HeadOf(row) * p.q_head_stride + dim;
      value = params.wide_q ? *reinterpret_cast<const float4*>(q) : float4{q[0], q[1], q[2], q[3]};
    }
    const uint2 pair{PackPair<__nv_bfloat16>(value.x, value.y),
                     PackPair<__nv_bfloat16>(value.z, value.w)};
    *reinterpret_cast<uint2*>(shared.q + row * Form<kDim>::kStride + dim) = pair;
  }
}

// Where this thread's position of the tile lies in the pages, in rows; -1 for what no row of the
// block sees.
template <int kDim>
__device__ __forceinline__ int32_t FindKvRow(const AttentionParams& p, const Place& place,
                                             const Bounds& bounds, int first) {
  const int position = first + static_cast<int>(threadIdx.x);
  if (threadIdx.x >= Form<kDim>::kPositions || position < bounds.begin || position >= bounds.end) {
    return -1;
  }
  return RowOfPosition(p, place.sequence, place.kv_head, position);
}

template <int kDim>
__device__ __forceinline__ void KeepKvRow(int32_t row, int32_t* kv_rows) {
  if (threadIdx.x < Form<kDim>::kPositions) kv_rows[threadIdx.x] = row;
}

// Starts copying the tile's keys or values. What no row sees becomes zeros.
template <int kDim>
__device__ __forceinline__ void CopyTile(const void* pages, const int32_t* kv_rows,
                                         __nv_bfloat16* to) {
  constexpr int kPieces = kDim / 8;
  const auto* from = static_cast<const __nv_bfloat16*>(pages);
#pragma unroll
  for (int i = 0; i < Form<kDim>::kPositions * kPieces / kThreads; ++i) {
    const int index = i * kThreads + static_cast<int>(threadIdx.x);
    const int row = index / kPieces;
    const int piece = index % kPieces;
    const int32_t kv_row = kv_rows[row];
    CopyAsync16(to + row * Form<kDim>::kStride + piece * 8,
                from + static_cast<int64_t>(max(kv_row, 0)) * kDim + piece * 8, kv_row >= 0);
  }
}

// What a warp has added up: of rows group and group + 8 of each of its tiles.
template <int kDim>
struct Sums {
  static constexpr int kTiles = Form<kDim>::kTiles;
  float largest[kTiles][2];  // of scores
  float total[kTiles][2];    // of this lane's positions
  float out[kTiles][kDim / 8][4];
};

template <int kDim>
using Scores = float[Form<kDim>::kTiles][Form<kDim>::kPositions / 8][4];

template <int kDim>
__device__ __forceinline__ void Score(const Shared<kDim>& shared, const __nv_bfloat16* keys,
                                      Scores<kDim>& scores) {
  using F = Form<kDim>;
  const int lane = threadIdx.x % kWarp;
  const int matrix = lane / 8;
  const int warp_row = threadIdx.x / kWarp * F::kTiles * 16;
  const __nv_bfloat16* q =
      shared.q + (warp_row + matrix % 2 * 8 + lane % 8) * F::kStride + matrix / 2 * 8;
  const __nv_bfloat16* k = keys + (matrix / 2 * 8 + lane % 8) * F::kStride + matrix % 2 * 8;
#pragma unroll
  for (int t = 0; t < F::kTiles; ++t) {
#pragma unroll
    for (int n = 0; n < F::kPositions / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[t][n][i] = 0.0f;
    }
  }
#pragma unroll
  for (int d = 0; d < kDim; d += 16) {
    uint32_t a[F::kTiles][4];
#pragma unroll
    for (int t = 0; t < F::kTiles; ++t) LoadTiles4(a[t], q + t * 16 * F::kStride + d);
#pragma unroll
    for (int n = 0; n < F::kPositions / 16; ++n) {
      uint32_t b[4];
      LoadTiles4(b, k + n * 16 * F::kStride + d);
#pragma unroll
      for (int t = 0; t < F::kTiles; ++t) {
        Mma<__nv_bfloat16>(scores[t][2 * n], a[t], b[0], b[1]);
        Mma<__nv_bfloat16>(scores[t][2 * n + 1], a[t], b[2], b[3]);
      }
    }
  }
}

// Hides what the rows do not see of the tile of positions from `first` on.
template <int kDim>
__device__ __forceinline__ void Hide(const Shared<kDim>& shared, int first, Scores<kDim>& scores) {
  using F = Form<kDim>;
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int t = 0; t < F::kTiles; ++t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = (threadIdx.x / kWarp * F::kTiles + t) * 16 + lane / 4 + 8 * half;
      const VisibleRange range = shared.ranges[row];
#pragma unroll
      for (int n = 0; n < F::kPositions / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int position = first + 8 * n + 2 * (lane % 4) + i;
          if (!Sees(range, position)) scores[t][n][2 * half + i] = -INFINITY;
        }
      }
    }
  }
}

// Scores to weights; moves the softmax on.
template <int kDim>
__device__ __forceinline__ void Weigh(float scale, Scores<kDim>& scores, Sums<kDim>& sums) {
  using F = Form<kDim>;
#pragma unroll
  for (int t = 0; t < F::kTiles; ++t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float now = sums.largest[t][half];
#pragma unroll
      for (int n = 0; n < F::kPositions / 8; ++n) {
        now = fmaxf(now, fmaxf(scores[t][n][2 * half], scores[t][n][2 * half + 1]));
      }
      now = fmaxf(now, __shfl_xor_sync(kAllLanes, now, 1));
      now = fmaxf(now, __shfl_xor_sync(kAllLanes, now, 2));
      const float base = now == -INFINITY ? 0.0f : now * scale;  // a row that saw nothing yet
      const float correction = Exp2(sums.largest[t][half] * scale - base);
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
      sums.total[t][half] = sums.total[t][half] * correction + total;
      // Once the largest is found it seldom moves again.
      if (__any_sync(kAllLanes, correction != 1.0f)) {
#pragma unroll
        for (int j = 0; j < kDim / 8; ++j) {
          sums.out[t][j][2 * half] *= correction;
          sums.out[t][j][2 * half + 1] *= correction;
        }
      }
    }
  }
}

template <int kDim>
__device__ __forceinline__ void AddValues(const __nv_bfloat16* values, const Scores<kDim>& weights,
                                          Sums<kDim>& sums) {
  using F = Form<kDim>;
  const int lane = threadIdx.x % kWarp;
  const int matrix = lane / 8;
  const __nv_bfloat16* v = values + (matrix % 2 * 8 + lane % 8) * F::kStride + matrix / 2 * 8;
#pragma unroll
  for (int n = 0; n < F::kPositions / 16; ++n) {
    uint32_t a[F::kTiles][4];
#pragma unroll
    for (int t = 0; t < F::kTiles; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float(&from)[4] = weights[t][2 * n + i / 2];
        a[t][i] = PackPair<__nv_bfloat16>(from[i % 2 * 2], from[i % 2 * 2 + 1]);
      }
    }
#pragma unroll
    for (int d = 0; d < kDim / 16; ++d) {
      uint32_t b[4];
      LoadTiles4Transposed(b, v + n * 16 * F::kStride + d * 16);
#pragma unroll
      for (int t = 0; t < F::kTiles; ++t) {
        Mma<__nv_bfloat16>(sums.out[t][2 * d], a[t], b[0], b[1]);
        Mma<__nv_bfloat16>(sums.out[t][2 * d + 1], a[t], b[2], b[3]);
      }
    }
  }
}

// The sums over the total.
template <int kDim>
__device__ __forceinline__ void Normalise(Sums<kDim>& sums) {
#pragma unroll
  for (int t = 0; t < Form<kDim>::kTiles; ++t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float total = sums.total[t][half];
      total += __shfl_xor_sync(kAllLanes, total, 1);
      total += __shfl_xor_sync(kAllLanes, total, 2);
      const float factor = total > 0.0f ? 1.0f / total : 0.0f;
#pragma unroll
      for (int j = 0; j < kDim / 8; ++j) {
        sums.out[t][j][2 * half] *= factor;
        sums.out[t][j][2 * half + 1] *= factor;
      }
    }
  }
}

// To `out` straight from the registers, two elements at a time.
template <int kDim, class Out>
__device__ __forceinline__ void StorePairs(const AttentionParams& p, const Place& place,
                                           const Sums<kDim>& sums) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int t = 0; t < Form<kDim>::kTiles; ++t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = (threadIdx.x / kWarp * Form<kDim>::kTiles + t) * 16 + lane / 4 + 8 * half;
      if (place.first_row + row >= place.rows) continue;
      Out* out = static_cast<Out*>(p.out) + place.TokenOf(row) * p.out_token_stride +
                 place.HeadOf(row) * p.out_head_stride + 2 * (lane % 4);
#pragma unroll
      for (int j = 0; j < kDim / 8; ++j) {
        out[8 * j] = FromFloat<Out>(sums.out[t][j][2 * half]);
        out[8 * j + 1] = FromFloat<Out>(sums.out[t][j][2 * half + 1]);
      }
    }
  }
}

// To `out` through the warp's own rows of the queries' shared memory, 16 bytes at a time.
template <int kDim, class Out>
__device__ __forceinline__ void StoreRows(const AttentionParams& p, const Place& place,
                                          const Sums<kDim>& sums, Shared<kDim>& shared) {
  using F = Form<kDim>;
  const int lane = threadIdx.x % kWarp;
  const int warp_row = threadIdx.x / kWarp * F::kTiles * 16;
#pragma unroll
  for (int t = 0; t < F::kTiles; ++t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      __nv_bfloat16* row = shared.q + (warp_row + t * 16 + lane / 4 + 8 * half) * F::kStride;
#pragma unroll
      for (int j = 0; j < kDim / 8; ++j) {
        *reinterpret_cast<uint32_t*>(row + 8 * j + 2 * (lane % 4)) =
            PackPair<Out>(sums.out[t][j][2 * half], sums.out[t][j][2 * half + 1]);
      }
    }
  }
  __syncwarp();
  constexpr int kPieces = kDim / 8;
  for (int i = lane; i < F::kTiles * 16 * kPieces; i += kWarp) {
    const int row = warp_row + i / kPieces;
    const int piece = i % kPieces;
    if (place.first_row + row >= place.rows) break;
    Out* out = static_cast<Out*>(p.out) + place.TokenOf(row) * p.out_token_stride +
               place.HeadOf(row) * p.out_head_stride + piece * 8;
    *reinterpret_cast<uint4*>(out) =
        *reinterpret_cast<const uint4*>(shared.q + row * F::kStride + piece * 8);
  }
}

// One block a tile of rows: grid (num_kv_heads, row_tiles, sequences).
template <int kDim>
__global__ void __launch_bounds__(kThreads, 2) PrefillKernel(const PrefillParams params) {
  using F = Form<kDim>;
  extern __shared__ __align__(16) char memory[];
  Shared<kDim>& shared = *reinterpret_cast<Shared<kDim>*>(memory);
  const AttentionParams& p = params.attention;
  Place place{};
  place.sequence = blockIdx.z;
  place.token = p.tables.query_begin[place.sequence];
  place.kv_head = blockIdx.x;
  place.group_heads = p.num_heads / p.num_kv_heads;
  // The last rows see most: they start first.
  place.first_row = (params.row_tiles - 1 - blockIdx.y) * F::kRows;
  place.rows = (p.tables.query_begin[place.sequence + 1] - place.token) * place.group_heads;
  if (place.rows <= params.max_rows || place.first_row >= place.rows) return;

  const Bounds bounds = FindRanges<kDim>(p, place, shared);
  const int begin = bounds.begin < bounds.end ? bounds.begin / F::kPositions * F::kPositions : 0;
  const int end = bounds.begin < bounds.end ? bounds.end : 0;
  KeepKvRow<kDim>(FindKvRow<kDim>(p, place, bounds, begin), shared.kv_rows[0]);
  KeepKvRow<kDim>(FindKvRow<kDim>(p, place, bounds, begin + F::kPositions), shared.kv_rows[1]);
  LoadQueries<kDim>(params, place, shared);
  __syncthreads();
  int keys = 0;  // which of shared.kv
  int values = 1;
  int next = 2;
  CopyTile<kDim>(p.k, shared.kv_rows[0], shared.kv[keys]);
  CopyAsyncCommit();
  CopyTile<kDim>(p.v, shared.kv_rows[0], shared.kv[values]);
  CopyAsyncCommit();

  Sums<kDim> sums;
#pragma unroll
  for (int t = 0; t < F::kTiles; ++t) {
    sums.largest[t][0] = sums.largest[t][1] = -INFINITY;
    sums.total[t][0] = sums.total[t][1] = 0.0f;
#pragma unroll
    for (int j = 0; j < kDim / 8; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums.out[t][j][i] = 0.0f;
    }
  }
  const float scale = p.scale * kLog2e;
  int now = 0;  // which of shared.kv_rows
  for (int first = begin; first < end; first += F::kPositions, now ^= 1) {
    const bool more = first + F::kPositions < end;
    CopyAsyncWait<1>();
    __syncthreads();  // keys are there, the last values were read
    if (more) CopyTile<kDim>(p.k, shared.kv_rows[now ^ 1], shared.kv[next]);
    CopyAsyncCommit();
    const int32_t kv_row = FindKvRow<kDim>(p, place, bounds, first + 2 * F::kPositions);
    Scores<kDim> scores;
    Score<kDim>(shared, shared.kv[keys], scores);
    if (first < bounds.common_from || first + F::kPositions > bounds.common_to) {
      Hide<kDim>(shared, first, scores);
    }
    Weigh<kDim>(scale, scores, sums);
    CopyAsyncWait<1>();
    __syncthreads();  // values are there, keys were read
    if (more) CopyTile<kDim>(p.v, shared.kv_rows[now ^ 1], shared.kv[keys]);
    CopyAsyncCommit();
    KeepKvRow<kDim>(kv_row, shared.kv_rows[now]);
    AddValues<kDim>(shared.kv[values], scores, sums);
    const int free = values;
    values = keys;
    keys = next;
    next = free;
  }
  Normalise<kDim>(sums);
  if (p.out_dtype == DType::kF32) {
    StorePairs<kDim, float>(p, place, sums);
  } else if (p.out_dtype == DType::kBF16) {
    params.wide_out ? StoreRows<kDim, __nv_bfloat16>(p, place, sums, shared)
                    : StorePairs<kDim, __nv_bfloat16>(p, place, sums);
  } else {
    params.wide_out ? StoreRows<kDim, __half>(p, place, sums, shared)
                    : StorePairs<kDim, __half>(p, place, sums);
  }
}

template <int kDim>
void LaunchPrefill(PrefillParams params, CudaStream& stream) {
  static_assert(sizeof(Shared<kDim>) <= kPortableShared);
  const AttentionParams& p = params.attention;
  const int rows = p.tables.max_query_count * (p.num_heads / p.num_kv_heads);
  params.row_tiles = CeilDiv(rows, Form<kDim>::kRows);
  const LaunchShape shape{.grid = dim3(p.num_kv_heads, params.row_tiles, p.tables.sequences),
                          .block = kThreads,
                          .shared_bytes = sizeof(Shared<kDim>)};
  AllowShared("attention_prefill", &PrefillKernel<kDim>, shape.shared_bytes);
  Launch("attention_prefill", &PrefillKernel<kDim>, shape, stream, params);
}

}  // namespace

void PrefillAttention(const AttentionParams& params, int max_rows, CudaStream& stream) {
  const auto aligned = [](const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; };
  const PrefillParams prefill{.attention = params,
                              .row_tiles = 0,
                              .max_rows = max_rows,
                              .wide_q = aligned(params.q) && params.q_token_stride % 4 == 0 &&
                                        params.q_head_stride % 4 == 0,
                              .wide_out = aligned(params.out) && params.out_token_stride % 8 == 0 &&
                                          params.out_head_stride % 8 == 0};
  WithFastDim(params.key_dim, [&](auto dim) { LaunchPrefill<dim.value>(prefill, stream); });
}

}  // namespace sluice::ops::cuda
