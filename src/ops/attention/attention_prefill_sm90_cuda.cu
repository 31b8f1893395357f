#include "ops/attention/attention_warpgroups.cuh"

// Attention of many rows by warpgroups. A block's two have 64 rows each; keys and values are copied
// a tile ahead. While the tensor cores add up a tile's values, and score the next tile for the
// other warpgroup, the other lanes turn scores into weights.
namespace sluice::ops::cuda {
namespace {

using Form = WarpgroupForm<2>;

struct Shared {
  Rows<Form::kRows> q;
  KvRows k[2];
  KvRows v[2];
  Ranges<Form> ranges;
  int32_t kv_rows[4][Form::kPositions];  // of tiles in turn
};

// One block a tile of rows: grid (num_kv_heads, row_tiles, sequences).
template <bool kFixedSplits>
__global__ void __launch_bounds__(Form::kThreads, 1)
    WarpgroupPrefillKernel(const __grid_constant__ PrefillParams params) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using F = Form;
  extern __shared__ char memory[];
  Shared& shared = AlignedShared<Shared>(memory);
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
  LoadQueries<F>(params, place, PlacesIn(shared.q));
  __syncthreads();
  CopyTile<F>(p.k, shared.kv_rows[0], PlacesIn(shared.k[0]));
  CopyAsyncCommit();
  CopyTile<F>(p.v, shared.kv_rows[0], PlacesIn(shared.v[0]));
  CopyTile<F>(p.k, shared.kv_rows[1], PlacesIn(shared.k[1]));
  CopyAsyncCommit();

  const uint32_t group = threadIdx.x / (4 * kWarp);
  const uint32_t queries = SharedAddress(&shared.q) + group * kGroupRows * kHalfRowBytes;
  const float scale = p.scale * kLog2e;
  Sums<F> sums;   // of the split
  Sums<F> whole;  // of those before it
  Clear<F>(sums);
  Clear<F>(whole);
  Scores<F> scores;
  Corrections<F> corrections;
  Weights weights;
  const auto weigh = [&](int first) {
    if (first < bounds.common_from || first + F::kPositions > bounds.common_to) {
      Hide<F>(shared.ranges, first, scores);
    }
    Weigh<F>(scale, scores, sums, corrections);
  };

  CopyAsyncWait<1>();
  PublishToProducts();
  __syncthreads();
  WarpgroupArrive();
  Score<F>(queries, SharedAddress(&shared.k[0]), scores[0]);
  WarpgroupWait<0>();
  HoldSums(scores[0]);
  weigh(begin);
  PackTile<F>(scores, weights);
  int tile = 0;
  for (int next = begin + F::kPositions; next < end; next += F::kPositions, ++tile) {
    CopyAsyncWait<0>();
    PublishToProducts();
    __syncthreads();  // the next keys and these values are there; the last ones were read
    if (next + F::kPositions < end) {
      CopyTile<F>(p.k, shared.kv_rows[(tile + 2) % 4], PlacesIn(shared.k[tile % 2]));
    }
    CopyTile<F>(p.v, shared.kv_rows[(tile + 1) % 4], PlacesIn(shared.v[(tile + 1) % 2]));
    CopyAsyncCommit();
    const int32_t kv_row = row_at(tile + 3);
    WarpgroupArrive();
    Score<F>(queries, SharedAddress(&shared.k[(tile + 1) % 2]), scores[0]);
    AddValues(weights, SharedAddress(&shared.v[tile % 2]), sums.out[0]);
    WarpgroupWait<1>();
    HoldSums(scores[0]);
    if (kFixedSplits && next % kFixedSplit == 0) {
      WarpgroupWait<0>();
      HoldSums(sums.out[0]);
      EndSplit<F>(scale, sums, whole);
    }
    weigh(next);
    WarpgroupWait<0>();
    HoldSums(sums.out[0]);
    Correct<F>(corrections, sums);
    PackTile<F>(scores, weights);
    KeepKvRow<F>(kv_row, shared.kv_rows[(tile + 3) % 4]);
  }
  CopyAsyncWait<0>();
  PublishToProducts();
  __syncthreads();  // the last values are there
  WarpgroupArrive();
  AddValues(weights, SharedAddress(&shared.v[tile % 2]), sums.out[0]);
  WarpgroupWait<0>();
  HoldSums(sums.out[0]);
  if constexpr (kFixedSplits) {
    EndSplit<F>(scale, sums, whole);
  } else {
    AddUpTotals<F>(sums);
    whole = sums;
  }
  Normalise<F>(whole);
  StoreResult<F>(params, place, whole, shared.k[0].halves[0]);
#endif
}

template <bool kFixedSplits>
void LaunchPrefill(PrefillParams params, CudaStream& stream) {
  constexpr auto kKernel = &WarpgroupPrefillKernel<kFixedSplits>;
  const LaunchShape shape = PrefillShape<Form>(params, sizeof(Shared) + kWarpgroupAlignment);
  AllowShared("attention_prefill", kKernel, shape.shared_bytes);
  Launch("attention_prefill", kKernel, shape, stream, params);
}

}  // namespace

bool HasAttentionWarpgroups(const AttentionParams& params, CudaStream& stream) {
#if defined(SLUICE_CUDA_WARPGROUPS)
  const CudaDeviceInfo& device = stream.device();
  return HasFastAttention(params) && params.key_dim == kWarpgroupDim && device.compute_major == 9 &&
         device.compute_minor == 0;
#else
  return false;
#endif
}

void WarpgroupPrefill(const PrefillParams& params, bool fixed_splits, CudaStream& stream) {
  fixed_splits ? LaunchPrefill<true>(params, stream) : LaunchPrefill<false>(params, stream);
}

}  // namespace sluice::ops::cuda
