#include "ops/attention/attention_splits.cuh"
#include "ops/common/cuda/launch.cuh"
#include "ops/common/cuda/mma.cuh"

// Latent attention over bf16 rows of 512 + 64 numbers, for few query rows. A block has 16 rows of
// (query, head) and a split of the positions. Its warps keep the whole queries in registers; of a
// tile of 64 positions in shared memory each scores 8, and adds up 64 of the 512 columns under all
// weights. The last block of a tile of rows adds up the splits in order.
namespace sluice::ops::cuda {
namespace {

constexpr int kKeyDim = 576;
constexpr int kValueDim = 512;
constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kPositions = 64;
constexpr int kSteps = kKeyDim / 16;
// Elements of a row in shared memory. An odd number of 16-byte pieces: eight rows' pieces lie in
// different banks.
constexpr int kStride = kKeyDim + 8;
constexpr int kWeightStride = kPositions + 8;
constexpr int kColumns = kValueDim / kWarps;
constexpr float kLog2e = 1.4426950408889634f;
constexpr unsigned kAllLanes = 0xffffffffu;

static_assert(kPositions == kWarps * 8);

struct LatentParams {
  AttentionParams attention;
  int32_t splits;
  int32_t row_blocks;
  float* partials;  // [sequences, row_blocks, splits, kRows, kValueDim]
  float2* states;   // [sequences, row_blocks, splits, kRows] largest and total
};

// With two buffers a tile arrives while the one before is worked on.
template <int kBuffers>
struct Shared {
  __nv_bfloat16 kv[kBuffers][kPositions * kStride];
  __nv_bfloat16 weights[kRows * kWeightStride];
  float largest[kWarps][kRows];  // of the tile's scores
  float total[kWarps][kRows];
  int32_t kv_rows[2][kPositions];  // of this tile and the next
};

// The queries as a fragments, by way of shared memory.
__device__ void LoadQueries(const AttentionParams& p, const SplitTile& tile, __nv_bfloat16* shared,
                            uint32_t (&queries)[kSteps][4]) {
  constexpr int kPairs = kKeyDim / 2;
  for (int i = threadIdx.x; i < kRows * kPairs; i += kThreads) {
    const int row = i / kPairs;
    const int dim = i % kPairs * 2;
    uint32_t pair = 0;
    if (row < tile.RowCount()) {
      const int64_t token = tile.TokenOf(row);
      const int64_t head = tile.HeadOf(row);
      const float* q = dim < kValueDim
                           ? p.q + token * p.q_token_stride + head * p.q_head_stride + dim
                           : p.q_rope + token * p.q_rope_token_stride +
                                 head * p.q_rope_head_stride + dim - kValueDim;
      pair = PackPair<__nv_bfloat16>(q[0], q[1]);
    }
    *reinterpret_cast<uint32_t*>(shared + row * kStride + dim) = pair;
  }
  __syncthreads();
  const int lane = threadIdx.x % kWarp;
  const int matrix = lane / 8;
  const __nv_bfloat16* from = shared + (matrix % 2 * 8 + lane % 8) * kStride + matrix / 2 * 8;
#pragma unroll
  for (int step = 0; step < kSteps; ++step) LoadTiles4(queries[step], from + step * 16);
  __syncthreads();
}

// Where this thread's position of the tile from `first` on lies, in rows; -1 outside the split.
__device__ __forceinline__ int32_t FindKvRow(const AttentionParams& p, const SplitTile& tile,
                                             const Split& split, int first) {
  const int position = first + static_cast<int>(threadIdx.x);
  if (threadIdx.x >= kPositions || position < split.begin || position >= split.end) return -1;
  return RowOfPosition(p, tile.sequence, 0, position);
}

__device__ __forceinline__ void KeepKvRow(int32_t row, int32_t* kv_rows) {
  if (threadIdx.x < kPositions) kv_rows[threadIdx.x] = row;
}

// Starts copying a tile. What lies outside the split becomes zeros.
__device__ __forceinline__ void CopyTile(const void* pages, const int32_t* kv_rows,
                                         __nv_bfloat16* to) {
  constexpr int kPieces = kKeyDim / 8;
  const auto* from = static_cast<const __nv_bfloat16*>(pages);
#pragma unroll
  for (int i = 0; i < kPositions * kPieces / kThreads; ++i) {
    const int index = i * kThreads + static_cast<int>(threadIdx.x);
    const int row = index / kPieces;
    const int piece = index % kPieces;
    const int32_t kv_row = kv_rows[row];
    CopyAsync16(to + row * kStride + piece * 8,
                from + static_cast<int64_t>(max(kv_row, 0)) * kKeyDim + piece * 8, kv_row >= 0);
  }
}

// This warp's 8 positions: sums of four chains, so that products need not wait for each other.
__device__ __forceinline__ void Score(const uint32_t (&queries)[kSteps][4], const __nv_bfloat16* kv,
                                      float (&scores)[4]) {
  constexpr int kChains = 4;
  const int lane = threadIdx.x % kWarp;
  // Four tiles of 8 positions by 8 dims: two steps of 16 dims.
  const __nv_bfloat16* from = kv + (threadIdx.x / kWarp * 8 + lane % 8) * kStride + lane / 8 * 8;
  float chains[kChains][4] = {};
#pragma unroll
  for (int step = 0; step < kSteps; step += 2) {
    uint32_t b[4];
    LoadTiles4(b, from + step * 16);
    Mma<__nv_bfloat16>(chains[step % kChains], queries[step], b[0], b[1]);
    Mma<__nv_bfloat16>(chains[(step + 1) % kChains], queries[step + 1], b[2], b[3]);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    scores[i] = (chains[0][i] + chains[1][i]) + (chains[2][i] + chains[3][i]);
  }
}

// What a warp has added up: its columns, of rows group and group + 8.
struct Sums {
  float largest[2] = {-INFINITY, -INFINITY};  // of scores times log2(e); alike in all warps
  float total[2] = {};                        // of this lane's positions
  float out[kColumns / 8][4] = {};
};

// Scores to weights in shared memory; moves the softmax on. The warps meet once in between.
template <int kBuffers>
__device__ __forceinline__ void Weigh(const TileRanges& ranges, int first, float scale,
                                      float (&scores)[4], Shared<kBuffers>& shared, Sums& sums) {
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int position = first + warp * 8 + 2 * (lane % 4);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float& score = scores[2 * half + i];
      score = Sees(ranges.own[half], position + i) ? score * scale : -INFINITY;
    }
    float largest = fmaxf(scores[2 * half], scores[2 * half + 1]);
    largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 2));
    if (lane % 4 == 0) shared.largest[warp][lane / 4 + 8 * half] = largest;
  }
  __syncthreads();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = lane / 4 + 8 * half;
    float now = sums.largest[half];
#pragma unroll
    for (int w = 0; w < kWarps; ++w) now = fmaxf(now, shared.largest[w][row]);
    const float base = now == -INFINITY ? 0.0f : now;  // a row that saw nothing yet
    const float correction = Exp2(sums.largest[half] - base);
    sums.largest[half] = now;
    const float low = Exp2(scores[2 * half] - base);
    const float high = Exp2(scores[2 * half + 1] - base);
    sums.total[half] = sums.total[half] * correction + low + high;
    *reinterpret_cast<uint32_t*>(shared.weights + row * kWeightStride + warp * 8 + 2 * (lane % 4)) =
        PackPair<__nv_bfloat16>(low, high);
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      sums.out[j][2 * half] *= correction;
      sums.out[j][2 * half + 1] *= correction;
    }
  }
}

__device__ __forceinline__ void AddValues(const __nv_bfloat16* weights, const __nv_bfloat16* kv,
                                          Sums& sums) {
  const int lane = threadIdx.x % kWarp;
  const int matrix = lane / 8;
  const int row = matrix % 2 * 8 + lane % 8;
  const __nv_bfloat16* a_from = weights + row * kWeightStride + matrix / 2 * 8;
  const __nv_bfloat16* b_from =
      kv + row * kStride + threadIdx.x / kWarp * kColumns + matrix / 2 * 8;
#pragma unroll
  for (int n = 0; n < kPositions / 16; ++n) {
    uint32_t a[4];
    LoadTiles4(a, a_from + n * 16);
#pragma unroll
    for (int d = 0; d < kColumns / 16; ++d) {
      uint32_t b[4];
      LoadTiles4Transposed(b, b_from + n * 16 * kStride + d * 16);
      Mma<__nv_bfloat16>(sums.out[2 * d], a, b[0], b[1]);
      Mma<__nv_bfloat16>(sums.out[2 * d + 1], a, b[2], b[3]);
    }
  }
}

// The split's sums to memory, or, where it is the only one, the result.
template <int kBuffers>
__device__ __forceinline__ void StoreSums(const LatentParams& params, const SplitTile& tile,
                                          const Split& split, const Sums& sums,
                                          Shared<kBuffers>& shared) {
  const AttentionParams& p = params.attention;
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int64_t part = PartOf(params.splits, split.index);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float total = sums.total[half];
    total += __shfl_xor_sync(kAllLanes, total, 1);
    total += __shfl_xor_sync(kAllLanes, total, 2);
    if (lane % 4 == 0) shared.total[warp][lane / 4 + 8 * half] = total;
  }
  __syncthreads();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = lane / 4 + 8 * half;
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += shared.total[w][row];
    if (split.active > 1 && warp == 0 && lane % 4 == 0) {
      params.states[part * kRows + row] = {sums.largest[half], total};
    }
    if (row >= tile.RowCount()) continue;
    const float factor = split.active > 1 ? 1.0f : Inverse(total);
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      const int column = warp * kColumns + j * 8 + 2 * (lane % 4);
      const float2 pair{sums.out[j][2 * half] * factor, sums.out[j][2 * half + 1] * factor};
      if (split.active > 1) {
        float* to = params.partials + (part * kRows + row) * kValueDim + column;
        *reinterpret_cast<float2*>(to) = pair;
      } else {
        StoreOut(p, tile.OutOf(p, row) + column, pair);
      }
    }
  }
}

// One block a split of a tile: grid (row_blocks, splits, sequences).
template <int kBuffers>
__global__ void __launch_bounds__(kThreads, 1) LatentKernel(const LatentParams params) {
  extern __shared__ __align__(16) char memory[];
  Shared<kBuffers>& shared = *reinterpret_cast<Shared<kBuffers>*>(memory);
  LetNextStart();
  const AttentionParams& p = params.attention;
  const SplitTile tile = PlaceTile(p, params.row_blocks);
  if (tile.first_row >= tile.rows) return;
  const TileRanges ranges = RangesOfTile(p, tile, threadIdx.x % kWarp);
  const Split split = CutTile(ranges, params.splits, kPositions);
  if (split.index >= split.active) return;

  const int begin = split.begin < split.end ? split.begin / kPositions * kPositions : 0;
  const int end = split.begin < split.end ? split.end : 0;
  uint32_t queries[kSteps][4];
  KeepKvRow(FindKvRow(p, tile, split, begin), shared.kv_rows[0]);
  __syncthreads();
  const bool ahead = kBuffers > 1 && begin < end;
  const bool early = begin + kPositions <= WrittenBefore(p, tile);
  if (ahead && early) CopyTile(p.k, shared.kv_rows[0], shared.kv[0]);
  WaitForEarlier();
  if (ahead && !early) CopyTile(p.k, shared.kv_rows[0], shared.kv[0]);
  CopyAsyncCommit();
  LoadQueries(p, tile, shared.kv[kBuffers - 1], queries);
  Sums sums;
  const float scale = p.scale * kLog2e;
  int now = 0;
  for (int first = begin; first < end; first += kPositions, now ^= 1) {
    if (kBuffers == 1) {
      CopyTile(p.k, shared.kv_rows[now], shared.kv[0]);
      CopyAsyncCommit();
    }
    KeepKvRow(FindKvRow(p, tile, split, first + kPositions), shared.kv_rows[now ^ 1]);
    CopyAsyncWait<0>();
    __syncthreads();  // the tile is there, the last one was read
    const __nv_bfloat16* kv = shared.kv[kBuffers > 1 ? now : 0];
    if (kBuffers > 1 && first + kPositions < end) {
      CopyTile(p.k, shared.kv_rows[now ^ 1], shared.kv[(now ^ 1) % kBuffers]);
      CopyAsyncCommit();
    }
    float scores[4];
    Score(queries, kv, scores);
    Weigh(ranges, first, scale, scores, shared, sums);
    __syncthreads();  // weights are there
    AddValues(shared.weights, kv, sums);
    if (kBuffers == 1) __syncthreads();  // the tile was read
  }
  StoreSums(params, tile, split, sums, shared);
  if (split.active == 1 || !IsLastOfTile(p.tables.counters, split.active)) return;
  AddUpSplits<kValueDim>(p, tile, split.active, params.partials, params.states,
                         PartOf(params.splits, 0));
}

static_assert(sizeof(Shared<1>) <= kPortableShared);

template <int kBuffers>
void LaunchLatent(const LatentParams& params, CudaStream& stream) {
  const LaunchShape shape{
      .grid = dim3(params.row_blocks, params.splits, params.attention.tables.sequences),
      .block = kThreads,
      .shared_bytes = sizeof(Shared<kBuffers>)};
  AllowShared("latent_attention", &LatentKernel<kBuffers>, shape.shared_bytes);
  LaunchEarly<&LatentKernel<kBuffers>>("latent_attention", shape, stream, params);
}

}  // namespace

bool HasFastLatentAttention(const AttentionParams& params) {
  return params.dtype == DType::kBF16 && params.v == nullptr && params.key_dim == kKeyDim &&
         params.value_dim == kValueDim;
}

SplitPlan PlanLatent(const AttentionParams& params, int multiprocessors) {
  const int rows = params.tables.max_query_count * params.num_heads;
  return PlanSplits(params, rows, kPositions, multiprocessors);
}

void FastLatentAttention(const AttentionParams& params, const SplitPlan& plan, float* partials,
                         float* states, CudaStream& stream) {
  const LatentParams latent{.attention = params,
                            .splits = plan.splits,
                            .row_blocks = plan.row_blocks,
                            .partials = partials,
                            .states = reinterpret_cast<float2*>(states)};
  if (static_cast<int>(sizeof(Shared<2>)) <= stream.device().shared_bytes_per_block) {
    LaunchLatent<2>(latent, stream);
  } else {
    LaunchLatent<1>(latent, stream);
  }
}

}  // namespace sluice::ops::cuda
