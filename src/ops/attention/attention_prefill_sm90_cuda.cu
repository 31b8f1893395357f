#include "ops/attention/attention_prefill.cuh"
#include "ops/common/cuda/wgmma.cuh"

// The same by Hopper's products (ops/common/cuda/wgmma.cuh). A block's two warpgroups have 64 rows
// each; keys and values are copied a tile ahead. While the tensor cores add up a tile's values, and
// score the next tile for the other warpgroup, the other lanes turn scores into weights.
namespace sluice::ops::cuda {
namespace {

struct Form {
  static constexpr int kDim = 128;
  static constexpr int kWarps = 8;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kTiles = 1;
  static constexpr int kRows = kWarps * 16;
  static constexpr int kPositions = 128;
  static constexpr int kStride = kDim + 8;  // of rows on their way out
};

constexpr int kHalfDim = 64;  // what a tile of the products' layout is wide
constexpr int kSteps = Form::kDim / 16;
constexpr int kStepsOfHalf = kHalfDim / 16;
constexpr int kGroupRows = 64;
constexpr int kElementBytes = sizeof(__nv_bfloat16);
constexpr int kStepBytes = 16 * kElementBytes;  // along a row
constexpr int kRowBytes = kHalfDim * kElementBytes;

// 128 queries, keys or values: their first 64 dims, then the others.
struct Rows {
  __nv_bfloat16 halves[2][Form::kRows * kHalfDim];
};
constexpr uint32_t kHalfBytes = sizeof(Rows) / 2;
static_assert(Form::kPositions == Form::kRows);

struct Shared {
  Rows q;
  Rows k[2];
  Rows v[2];
  Ranges<Form> ranges;
  int32_t kv_rows[4][Form::kPositions];  // of tiles in turn
};
constexpr int kAlignment = 1024;

__device__ __forceinline__ __nv_bfloat16* PlaceOf(Rows& rows, int row, int dim) {
  return rows.halves[dim / kHalfDim] + SwizzledOffset(row, dim % kHalfDim / 8) + dim % 8;
}

__device__ void LoadQueries(const PrefillParams& params, const Place& place, Rows& to) {
  constexpr int kQuads = Form::kDim / 4;
  for (int i = threadIdx.x; i < Form::kRows * kQuads; i += Form::kThreads) {
    const int row = i / kQuads;
    const int dim = i % kQuads * 4;
    *reinterpret_cast<uint2*>(PlaceOf(to, row, dim)) = LoadQuad(params, place, row, dim);
  }
}

// Starts copying a tile's keys or values. What no row sees becomes zeros.
__device__ __forceinline__ void CopyTile(const void* pages, const int32_t* kv_rows, Rows& to) {
  constexpr int kPieces = Form::kDim / 8;
  const auto* from = static_cast<const __nv_bfloat16*>(pages);
#pragma unroll
  for (int i = 0; i < Form::kPositions * kPieces / Form::kThreads; ++i) {
    const int index = i * Form::kThreads + static_cast<int>(threadIdx.x);
    const int row = index / kPieces;
    const int dim = index % kPieces * 8;
    const int32_t kv_row = kv_rows[row];
    CopyAsync16(PlaceOf(to, row, dim),
                from + static_cast<int64_t>(max(kv_row, 0)) * Form::kDim + dim, kv_row >= 0);
  }
}

// Queues the products of this warpgroup's queries with a tile's keys.
__device__ __forceinline__ void Score(uint32_t queries, uint32_t keys, float (&scores)[16][4]) {
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    const uint32_t at = step / kStepsOfHalf * kHalfBytes + step % kStepsOfHalf * kStepBytes;
    WarpgroupDot(scores, TileDescriptor(queries + at, 0), TileDescriptor(keys + at, 0), step > 0);
  }
  WarpgroupCommit();
}

using Weights = uint32_t[Form::kPositions / 16][4];

// Queues the products of weights with a tile's values.
__device__ __forceinline__ void AddValues(const Weights& weights, uint32_t values,
                                          float (&out)[16][4]) {
#pragma unroll
  for (int n = 0; n < Form::kPositions / 16; ++n) {
    WarpgroupSum(out, weights[n], TileDescriptor(values + n * 16 * kRowBytes, kHalfBytes), true);
  }
  WarpgroupCommit();
}

// One block a tile of rows: grid (num_kv_heads, row_tiles, sequences).
__global__ void __launch_bounds__(Form::kThreads, 1)
    WarpgroupPrefillKernel(const __grid_constant__ PrefillParams params) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using F = Form;
  extern __shared__ char memory[];
  char* aligned = memory + (kAlignment - SharedAddress(memory) % kAlignment) % kAlignment;
  Shared& shared = *reinterpret_cast<Shared*>(aligned);
  const AttentionParams& p = params.attention;
  const Place place = PlaceBlock<F>(params);
  if (place.rows <= params.max_rows || place.first_row >= place.rows) return;

  const Bounds bounds = FindRanges<F>(p, place, shared.ranges);
  const int begin = bounds.begin < bounds.end ? bounds.begin / F::kPositions * F::kPositions : 0;
  const int end = bounds.begin < bounds.end ? bounds.end : 0;
  const auto row_at = [&](int tile) {
    return FindKvRow<F>(p, place, bounds, begin + tile * F::kPositions);
  };
#pragma unroll
  for (int tile = 0; tile < 3; ++tile) KeepKvRow<F>(row_at(tile), shared.kv_rows[tile]);
  LoadQueries(params, place, shared.q);
  __syncthreads();
  CopyTile(p.k, shared.kv_rows[0], shared.k[0]);
  CopyAsyncCommit();
  CopyTile(p.v, shared.kv_rows[0], shared.v[0]);
  CopyTile(p.k, shared.kv_rows[1], shared.k[1]);
  CopyAsyncCommit();

  const uint32_t group = threadIdx.x / (4 * kWarp);
  const uint32_t queries = SharedAddress(&shared.q) + group * kGroupRows * kRowBytes;
  const float scale = p.scale * kLog2e;
  Sums<F> sums;
  Clear<F>(sums);
  Scores<F> scores;
  Corrections<F> corrections;
  Weights weights;
  const auto weigh = [&](int first) {
    if (first < bounds.common_from || first + F::kPositions > bounds.common_to) {
      Hide<F>(shared.ranges, first, scores);
    }
    Weigh<F>(scale, scores, sums, corrections);
  };
  const auto pack = [&] {
#pragma unroll
    for (int n = 0; n < F::kPositions / 16; ++n) {
      PackWeights(scores[0][2 * n], scores[0][2 * n + 1], weights[n]);
    }
  };

  CopyAsyncWait<1>();
  PublishToProducts();
  __syncthreads();
  WarpgroupArrive();
  Score(queries, SharedAddress(&shared.k[0]), scores[0]);
  WarpgroupWait<0>();
  HoldSums(scores[0]);
  weigh(begin);
  pack();
  int tile = 0;
  for (int next = begin + F::kPositions; next < end; next += F::kPositions, ++tile) {
    CopyAsyncWait<0>();
    PublishToProducts();
    __syncthreads();  // the next keys and these values are there; the last ones were read
    if (next + F::kPositions < end) {
      CopyTile(p.k, shared.kv_rows[(tile + 2) % 4], shared.k[tile % 2]);
    }
    CopyTile(p.v, shared.kv_rows[(tile + 1) % 4], shared.v[(tile + 1) % 2]);
    CopyAsyncCommit();
    const int32_t kv_row = row_at(tile + 3);
    WarpgroupArrive();
    Score(queries, SharedAddress(&shared.k[(tile + 1) % 2]), scores[0]);
    AddValues(weights, SharedAddress(&shared.v[tile % 2]), sums.out[0]);
    WarpgroupWait<1>();
    HoldSums(scores[0]);
    weigh(next);
    WarpgroupWait<0>();
    HoldSums(sums.out[0]);
    Correct<F>(corrections, sums);
    pack();
    KeepKvRow<F>(kv_row, shared.kv_rows[(tile + 3) % 4]);
  }
  CopyAsyncWait<0>();
  PublishToProducts();
  __syncthreads();  // the last values are there
  WarpgroupArrive();
  AddValues(weights, SharedAddress(&shared.v[tile % 2]), sums.out[0]);
  WarpgroupWait<0>();
  HoldSums(sums.out[0]);
  Normalise<F>(sums);
  StoreResult<F>(params, place, sums, shared.k[0].halves[0]);
#endif
}

}  // namespace

bool HasWarpgroupPrefill(const AttentionParams& params, CudaStream& stream) {
#if defined(SLUICE_CUDA_WARPGROUPS)
  const CudaDeviceInfo& device = stream.device();
  return params.key_dim == Form::kDim && device.compute_major == 9 && device.compute_minor == 0;
#else
  return false;
#endif
}

void WarpgroupPrefill(PrefillParams params, CudaStream& stream) {
  const LaunchShape shape = PrefillShape<Form>(params, sizeof(Shared) + kAlignment);
  AllowShared("attention_prefill", &WarpgroupPrefillKernel, shape.shared_bytes);
  Launch("attention_prefill", &WarpgroupPrefillKernel, shape, stream, params);
}

}  // namespace sluice::ops::cuda
