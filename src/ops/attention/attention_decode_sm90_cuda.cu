#include "ops/attention/attention_splits.cuh"
#include "ops/attention/attention_warpgroups.cuh"

// Attention of few rows in fixed splits, bound by reading KV once: the sums of
// attention_prefill's warpgroups, bit for bit. A block has one split of all rows of a sequence and
// KV head, and the last block of them to finish adds up the splits; or where tiles are enough to
// fill the device, it has all splits.
namespace sluice::ops::cuda {
namespace {

using Form = WarpgroupForm<1>;
static_assert(Form::kThreads == Form::kPositions);

// So that two blocks fit a multiprocessor: while one waits, the other computes.
constexpr int kBlocksTogether = 2;

// With few positions a block goes through the kernel once, and most of its time is that of fetching
// instructions, which the weights of other layers have driven out of every cache. So loops are
// written out a few times, not as often as could be.
constexpr int kUnrolled = 4;

struct Shared {
  Rows<Form::kRows> q;
  KvRows k;
  KvRows v;
  Ranges<Form> ranges;
  int32_t kv_rows[2][Form::kPositions];  // of tiles in turn
};

struct SplitParams {
  PrefillParams prefill;
  int32_t splits;   // of a tile of rows, at most; 1: a block has all of them
  int32_t rows;     // that the partial sums of a split have room for
  float* partials;  // [sequence, KV head, split, row, dim]
  float2* states;   // the same but for dims: largest score and total
};

// The splits of a block's rows, from the first that any row sees on.
struct SplitsOfRows {
  int first;
  int count;  // 1 at least
};

__device__ __forceinline__ SplitsOfRows FindSplits(const Bounds& bounds) {
  if (bounds.begin >= bounds.end) return {0, 1};
  const int first = bounds.begin / kFixedSplit;
  return {first, CeilDiv(bounds.end, kFixedSplit) - first};
}

// A split's sums, for the block that adds them up.
__device__ __forceinline__ void StoreSplit(const SplitParams& params, const Place& place,
                                           int64_t part, const Sums<Form>& sums) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = threadIdx.x / kWarp * 16 + lane / 4 + 8 * half;
    if (row >= place.rows) continue;
    const int64_t at = part * params.rows + row;
    if (lane % 4 == 0) {
      params.states[at] = {sums.largest[0][half], sums.total[0][half]};
    }
    float* out = params.partials + at * Form::kDim + 2 * (lane % 4);
#pragma unroll
    for (int j = 0; j < Form::kDim / 8; ++j) {
      *reinterpret_cast<float2*>(out + 8 * j) = {sums.out[0][j][2 * half],
                                                 sums.out[0][j][2 * half + 1]};
    }
  }
}

// Adds up `count` splits from `first_part` on, as EndSplit does one after the other, and stores the
// rows' result.
__device__ void AddUpSplits(const SplitParams& params, const Place& place, int count,
                            int64_t first_part, float scale) {
  constexpr int kQuads = Form::kDim / 4;
  constexpr int kAhead = 8;  // splits under way
  const AttentionParams& p = params.prefill.attention;
  for (int i = threadIdx.x; i < place.rows * kQuads; i += Form::kThreads) {
    const int row = i / kQuads;
    const int dim = i % kQuads * 4;
    float largest = -INFINITY;
    float total = 0.0f;
    float sums[4] = {};
    for (int first = 0; first < count; first += kAhead) {
      float2 states[kAhead];
      float4 values[kAhead];
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        states[j] = {-INFINITY, 0.0f};
        if (first + j >= count) continue;
        const int64_t at = (first_part + first + j) * params.rows + row;
        states[j] = __ldcg(params.states + at);
        values[j] =
            __ldcg(reinterpret_cast<const float4*>(params.partials + at * Form::kDim + dim));
      }
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        if (states[j].x == -INFINITY) continue;
        const SplitFactors factors = FactorsOf(scale, largest, states[j].x);
        largest = factors.largest;
        total = AddSplit(factors, total, states[j].y);
        sums[0] = AddSplit(factors, sums[0], values[j].x);
        sums[1] = AddSplit(factors, sums[1], values[j].y);
        sums[2] = AddSplit(factors, sums[2], values[j].z);
        sums[3] = AddSplit(factors, sums[3], values[j].w);
      }
    }
    const int64_t out =
        place.TokenOf(row) * p.out_token_stride + place.HeadOf(row) * p.out_head_stride + dim;
    StoreOut(p, out, Scaled({sums[0], sums[1], sums[2], sums[3]}, Inverse(total)));
  }
}

// One block a tile of rows, or with kCut a split of one: grid (num_kv_heads, splits, sequences).
template <bool kCut>
__global__ void __launch_bounds__(Form::kThreads, kBlocksTogether)
    FixedSplitsKernel(const __grid_constant__ SplitParams params) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using F = Form;
  extern __shared__ char memory[];
  Shared& shared = AlignedShared<Shared>(memory);
  LetNextStart();
  const AttentionParams& p = params.prefill.attention;
  Place place{};
  place.sequence = blockIdx.z;
  place.token = p.tables.query_begin[place.sequence];
  place.kv_head = blockIdx.x;
  place.group_heads = p.num_heads / p.num_kv_heads;
  place.rows = (p.tables.query_begin[place.sequence + 1] - place.token) * place.group_heads;
  if (place.rows > params.prefill.max_rows || place.rows == 0) return;
  const int index = blockIdx.y;
  if (index > 0 && index * kFixedSplit >= p.tables.kv_lengths[place.sequence]) return;
  const Bounds bounds = FindRanges<F>(p, place, shared.ranges);
  const SplitsOfRows splits = FindSplits(bounds);
  if (kCut && index >= splits.count) return;

  const int split_begin = (splits.first + index) * kFixedSplit;
  const int begin = max(split_begin, bounds.begin / F::kPositions * F::kPositions);
  const int end = kCut ? min(bounds.end, split_begin + kFixedSplit) : bounds.end;
  const auto row_at = [&](int first) { return FindKvRow<F>(p, place, bounds, first); };
  KeepKvRow<F>(row_at(begin), shared.kv_rows[0]);
  KeepKvRow<F>(row_at(begin + F::kPositions), shared.kv_rows[1]);
  __syncthreads();
  if (begin + F::kPositions > WrittenBefore(p, place)) WaitForEarlier();
  CopyTile<F, kUnrolled>(p.k, shared.kv_rows[0], PlacesIn(shared.k));
  CopyAsyncCommit();
  CopyTile<F, kUnrolled>(p.v, shared.kv_rows[0], PlacesIn(shared.v));
  CopyAsyncCommit();
  WaitForEarlier();
  LoadQueries<F, kUnrolled>(params.prefill, place, PlacesIn(shared.q));

  const float scale = p.scale * kLog2e;
  Sums<F> sums;   // of the split
  Sums<F> whole;  // of those before it
  Clear<F>(sums);
  Clear<F>(whole);
  // This warp's rows of 16, in eights; nobody keeps what comes of the others.
  const int halves = CeilDiv(place.rows - static_cast<int>(threadIdx.x) / kWarp * 16, 8);
  int tile = 0;
  for (int first = begin; first < end; first += F::kPositions, ++tile) {
    const int next = first + F::kPositions;
    CopyAsyncWait<1>();
    PublishToProducts();
    __syncthreads();  // keys are there, and queries
    Scores<F> scores;
    WarpgroupArrive();
    Score<F>(SharedAddress(&shared.q), SharedAddress(&shared.k), scores[0]);
    WarpgroupWait<0>();
    HoldSums(scores[0]);
    __syncthreads();  // keys were read
    if (next < end) CopyTile<F, kUnrolled>(p.k, shared.kv_rows[(tile + 1) % 2], PlacesIn(shared.k));
    CopyAsyncCommit();
    const int32_t kv_row = row_at(next + F::kPositions);
    Weights weights = {};
    if (halves > 0) {
      if (first < bounds.common_from || next > bounds.common_to) {
        Hide<F>(shared.ranges, first, scores, halves);
      }
      Corrections<F> corrections;
      Weigh<F>(scale, scores, sums, corrections, halves);
      Correct<F>(corrections, sums);
      PackTile<F>(scores, weights);
    }
    CopyAsyncWait<1>();
    PublishToProducts();
    __syncthreads();  // values are there
    WarpgroupArrive();
    AddValues(weights, SharedAddress(&shared.v), sums.out[0]);
    WarpgroupWait<0>();
    HoldSums(sums.out[0]);
    KeepKvRow<F>(kv_row, shared.kv_rows[tile % 2]);
    __syncthreads();  // values were read
    if (next < end) CopyTile<F, kUnrolled>(p.v, shared.kv_rows[(tile + 1) % 2], PlacesIn(shared.v));
    CopyAsyncCommit();
    if (!kCut && (next >= end || next % kFixedSplit == 0)) EndSplit<F>(scale, sums, whole);
  }
  CopyAsyncWait<0>();  // of rows that see nothing
  __syncthreads();
  if constexpr (!kCut) {
    Normalise<F>(whole);
    StoreResult<F>(params.prefill, place, whole, shared.k.halves[0]);
  } else {
    AddUpTotals<F>(sums);
    const int64_t first_part =
        (static_cast<int64_t>(blockIdx.z) * gridDim.x + blockIdx.x) * params.splits;
    StoreSplit(params, place, first_part + index, sums);
    if (!IsLastOfTile(p.tables.counters, splits.count)) return;
    AddUpSplits(params, place, splits.count, first_part, scale);
  }
#endif
}

template <bool kCut>
void LaunchSplits(const SplitParams& params, CudaStream& stream) {
  constexpr auto kKernel = &FixedSplitsKernel<kCut>;
  const AttentionParams& p = params.prefill.attention;
  const LaunchShape shape{.grid = dim3(p.num_kv_heads, params.splits, p.tables.sequences),
                          .block = Form::kThreads,
                          .shared_bytes = sizeof(Shared) + kWarpgroupAlignment};
  AllowShared("attention_splits", kKernel, shape.shared_bytes);
  LaunchEarly<kKernel>("attention_splits", shape, stream, params);
}

}  // namespace

SplitPlan PlanFixedSplits(const AttentionParams& params, int max_rows, int few, int few_rows,
                          int multiprocessors) {
  // What a step's scratch has room for is bounded (kPartialSumBytes of the memory plan): past it,
  // blocks take all splits.
  constexpr int64_t kMaxPartialFloats = 12 << 20;
  const int units = CeilDiv(LongestTile(params, kFixedSplit), kFixedSplit);
  const int64_t parts = int64_t{params.tables.sequences} * params.num_kv_heads * units * few_rows;
  const bool cut = units > 1 && few * params.num_kv_heads < kBlocksTogether * multiprocessors &&
                   params.num_kv_heads <= kAttentionCounters &&
                   parts * Form::kDim <= kMaxPartialFloats;
  return {.max_rows = max_rows,
          .splits = cut ? units : 1,
          .row_blocks = 1,
          .rows = few_rows,
          .partial_floats = cut ? parts * Form::kDim : 0,
          .state_floats = cut ? parts * 2 : 0};
}

void FixedSplitsAttention(const AttentionParams& params, const SplitPlan& plan, float* partials,
                          float* states, CudaStream& stream) {
  const SplitParams splits{.prefill = PrefillParamsOf(params, plan.max_rows),
                           .splits = plan.splits,
                           .rows = plan.rows,
                           .partials = partials,
                           .states = reinterpret_cast<float2*>(states)};
  plan.splits > 1 ? LaunchSplits<true>(splits, stream) : LaunchSplits<false>(splits, stream);
}

}  // namespace sluice::ops::cuda
