#include <type_traits>

#include "ops/attention/attention_prefill.cuh"
#include "ops/common/cuda/launch.cuh"

// Attention of many rows over bf16 pages, bound by tensor cores. The query rows and heads that
// share a KV head stand together; a block has a tile of such rows in shared memory, each warp sums
// up its own of them, and tiles of positions pass by: copies of keys and values are started a whole
// product before they are waited for.
namespace sluice::ops::cuda {
namespace {

// How a width's block is cut: the sums of a warp's rows must fit its registers, and the block
// 100 KB of shared memory.
template <int kWidth>
struct Form {
  static constexpr int kDim = kWidth;
  static constexpr int kWarps = 4;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kTiles = kDim <= 128 ? 2 : 1;  // of 16 rows, a warp
  static constexpr int kRows = kWarps * kTiles * 16;  // a block
  static constexpr int kPositions = kDim <= 128 ? 64 : 32;
  // Elements of a row in shared memory. An odd number of 16-byte pieces: eight rows' pieces lie in
  // different banks.
  static constexpr int kStride = kDim + 8;
};

template <class F>
struct Shared {
  __nv_bfloat16 q[F::kRows * F::kStride];
  // Keys and values of tiles in turn: two are being used or arriving, one is on its way.
  __nv_bfloat16 kv[3][F::kPositions * F::kStride];
  int32_t kv_rows[2][F::kPositions];  // of this tile of positions and the next
  Ranges<F> ranges;
};

// Where a row's dims lie, as LoadQueries and CopyTile ask.
template <class F>
__device__ __forceinline__ auto PlacesIn(__nv_bfloat16* rows) {
  return [rows](int row, int dim) { return rows + row * F::kStride + dim; };
}

template <class F>
__device__ __forceinline__ void Score(const Shared<F>& shared, const __nv_bfloat16* keys,
                                      Scores<F>& scores) {
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
  for (int d = 0; d < F::kDim; d += 16) {
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

template <class F>
__device__ __forceinline__ void AddValues(const __nv_bfloat16* values, const Scores<F>& weights,
                                          Sums<F>& sums) {
  const int lane = threadIdx.x % kWarp;
  const int matrix = lane / 8;
  const __nv_bfloat16* v = values + (matrix % 2 * 8 + lane % 8) * F::kStride + matrix / 2 * 8;
#pragma unroll
  for (int n = 0; n < F::kPositions / 16; ++n) {
    uint32_t a[F::kTiles][4];
#pragma unroll
    for (int t = 0; t < F::kTiles; ++t) {
      PackWeights(weights[t][2 * n], weights[t][2 * n + 1], a[t]);
    }
#pragma unroll
    for (int d = 0; d < F::kDim / 16; ++d) {
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

// One block a tile of rows: grid (num_kv_heads, row_tiles, sequences).
template <class F>
__global__ void __launch_bounds__(F::kThreads, 2) PrefillKernel(const PrefillParams params) {
  extern __shared__ __align__(16) char memory[];
  Shared<F>& shared = *reinterpret_cast<Shared<F>*>(memory);
  const AttentionParams& p = params.attention;
  const Place place = PlaceBlock<F>(params);
  if (place.rows <= params.max_rows || place.first_row >= place.rows) return;

  const Bounds bounds = FindRanges<F>(p, place, shared.ranges);
  const int begin = bounds.begin < bounds.end ? bounds.begin / F::kPositions * F::kPositions : 0;
  const int end = bounds.begin < bounds.end ? bounds.end : 0;
  KeepKvRow<F>(FindKvRow<F>(p, place, bounds, begin), shared.kv_rows[0]);
  KeepKvRow<F>(FindKvRow<F>(p, place, bounds, begin + F::kPositions), shared.kv_rows[1]);
  LoadQueries<F>(params, place, PlacesIn<F>(shared.q));
  __syncthreads();
  int keys = 0;  // which of shared.kv
  int values = 1;
  int next = 2;
  CopyTile<F>(p.k, shared.kv_rows[0], PlacesIn<F>(shared.kv[keys]));
  CopyAsyncCommit();
  CopyTile<F>(p.v, shared.kv_rows[0], PlacesIn<F>(shared.kv[values]));
  CopyAsyncCommit();

  Sums<F> sums;
  Clear<F>(sums);
  const float scale = p.scale * kLog2e;
  int now = 0;  // which of shared.kv_rows
  for (int first = begin; first < end; first += F::kPositions, now ^= 1) {
    const bool more = first + F::kPositions < end;
    CopyAsyncWait<1>();
    __syncthreads();  // keys are there, the last values were read
    if (more) CopyTile<F>(p.k, shared.kv_rows[now ^ 1], PlacesIn<F>(shared.kv[next]));
    CopyAsyncCommit();
    const int32_t kv_row = FindKvRow<F>(p, place, bounds, first + 2 * F::kPositions);
    Scores<F> scores;
    Score<F>(shared, shared.kv[keys], scores);
    if (first < bounds.common_from || first + F::kPositions > bounds.common_to) {
      Hide<F>(shared.ranges, first, scores);
    }
    Corrections<F> corrections;
    Weigh<F>(scale, scores, sums, corrections);
    Correct<F>(corrections, sums);
    CopyAsyncWait<1>();
    __syncthreads();  // values are there, keys were read
    if (more) CopyTile<F>(p.v, shared.kv_rows[now ^ 1], PlacesIn<F>(shared.kv[keys]));
    CopyAsyncCommit();
    KeepKvRow<F>(kv_row, shared.kv_rows[now]);
    AddValues<F>(shared.kv[values], scores, sums);
    const int free = values;
    values = keys;
    keys = next;
    next = free;
  }
  AddUpTotals<F>(sums);
  Normalise<F>(sums);
  StoreResult<F>(params, place, sums, shared.q);
}

template <class F>
void LaunchPrefill(PrefillParams params, CudaStream& stream) {
  static_assert(sizeof(Shared<F>) <= kPortableShared);
  const LaunchShape shape = PrefillShape<F>(params, sizeof(Shared<F>));
  AllowShared("attention_prefill", &PrefillKernel<F>, shape.shared_bytes);
  Launch("attention_prefill", &PrefillKernel<F>, shape, stream, params);
}

}  // namespace

void PrefillAttention(const AttentionParams& params, int max_rows, bool fixed_splits,
                      CudaStream& stream) {
  const PrefillParams prefill = PrefillParamsOf(params, max_rows);
  if (HasAttentionWarpgroups(params, stream))
    return WarpgroupPrefill(prefill, fixed_splits, stream);
  WithFastDim(params.key_dim, [&](auto dim) { LaunchPrefill<Form<dim.value>>(prefill, stream); });
}

}  // namespace sluice::ops::cuda
