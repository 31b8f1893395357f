#include "ops/attention/attention_splits.cuh"
#include "ops/common/cuda/launch.cuh"
#include "ops/common/cuda/wgmma.cuh"

// Latent attention over bf16 rows of 512 + 64 numbers by Hopper's products, for many query rows. A
// block has 64 rows of (query, head) and all their positions, and its two warpgroups share each
// tile of 64 positions: each scores half of it, and adds up half of the columns under all weights.
namespace sluice::ops::cuda {
namespace {

constexpr int kKeyDim = 576;
constexpr int kValueDim = 512;
constexpr int kGroups = 2;
constexpr int kGroupWarps = 4;
constexpr int kWarps = kGroups * kGroupWarps;
constexpr int kThreads = kWarps * kWarp;
constexpr int kTileRows = 64;
constexpr int kPositions = 64;
constexpr int kScored = kPositions / kGroups;  // by a warpgroup
constexpr int kColumns = kValueDim / kGroups;  // summed by a warpgroup
constexpr int kWide = 64;                      // elements of a row of the products' layout
constexpr int kRowBytes = kWide * sizeof(__nv_bfloat16);
constexpr int kStepBytes = 16 * sizeof(__nv_bfloat16);  // along a row
constexpr int kStepsOfRow = kWide / 16;
constexpr float kLog2e = 1.4426950408889634f;
constexpr unsigned kAllLanes = 0xffffffffu;
static_assert(kTileRows == kPositions);

// 64 rows of queries or latents, 64 columns behind the other.
struct Rows {
  __nv_bfloat16 parts[kKeyDim / kWide][kPositions * kWide];
};
constexpr uint32_t kPartBytes = sizeof(Rows) / (kKeyDim / kWide);

struct Shared {
  Rows q;
  Rows kv[2];  // a tile arrives while the one before is worked on
  __nv_bfloat16 weights[kTileRows * kPositions];
  int32_t kv_rows[2][kPositions];      // of this tile and the next
  float by_group[kGroups][kTileRows];  // largest scores of a tile, totals in the end
};
constexpr int kAlignment = 1024;

struct LatentTilesParams {
  AttentionParams attention;
  int32_t row_tiles;  // of a sequence
};

// Starts copying a tile. What lies outside [begin, end) becomes zeros.
__device__ __forceinline__ void CopyTile(const void* pages, const int32_t* kv_rows, Rows& to) {
  constexpr int kPieces = kKeyDim / 8;
  const auto* from = static_cast<const __nv_bfloat16*>(pages);
#pragma unroll
  for (int i = 0; i < kPositions * kPieces / kThreads; ++i) {
    const int index = i * kThreads + static_cast<int>(threadIdx.x);
    const int row = index / kPieces;
    const int piece = index % kPieces;
    const int32_t kv_row = kv_rows[row];
    CopyAsync16(to.parts[piece / 8] + SwizzledOffset(row, piece % 8),
                from + static_cast<int64_t>(max(kv_row, 0)) * kKeyDim + piece * 8, kv_row >= 0);
  }
}

// The block's queries, rounded; zeros behind the sequence's last row. `tile` is of 16 of the rows,
// this warp's, which it loads with the other warpgroup's warp that has them.
__device__ void LoadQueries(const AttentionParams& p, const SplitTile& tile, Rows& to) {
  constexpr int kPairs = kKeyDim / 2;
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int first_row = warp % kGroupWarps * kRows;
#pragma unroll 2
  for (int row = warp / kGroupWarps; row < kRows; row += kGroups) {
    const bool exists = row < tile.RowCount();
    const int64_t token = tile.TokenOf(row);
    const int64_t head = tile.HeadOf(row);
    const float* latent = p.q + token * p.q_token_stride + head * p.q_head_stride;
    const float* rope = p.q_rope + token * p.q_rope_token_stride + head * p.q_rope_head_stride;
    float2 pairs[kPairs / kWarp];
#pragma unroll
    for (int i = 0; i < kPairs / kWarp; ++i) {
      const int dim = 2 * (i * kWarp + lane);
      const float* from = dim < kValueDim ? latent + dim : rope + dim - kValueDim;
      pairs[i] = exists ? *reinterpret_cast<const float2*>(from) : float2{};
    }
#pragma unroll
    for (int i = 0; i < kPairs / kWarp; ++i) {
      const int dim = 2 * (i * kWarp + lane);
      __nv_bfloat16* at =
          to.parts[dim / kWide] + SwizzledOffset(first_row + row, dim % kWide / 8) + dim % 8;
      *reinterpret_cast<uint32_t*>(at) = PackPair<__nv_bfloat16>(pairs[i].x, pairs[i].y);
    }
  }
}

// Positions that some of the block's rows see.
struct Seen {
  int begin;
  int end;
};

__device__ Seen SeenByBlock(const TileRanges& ranges, int32_t* scratch) {
  if (threadIdx.x % kWarp == 0) {
    scratch[threadIdx.x / kWarp] = ranges.begin;
    scratch[kWarps + threadIdx.x / kWarp] = ranges.end;
  }
  __syncthreads();
  Seen seen{kNoTree, 0};
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    seen.begin = min(seen.begin, scratch[w]);
    seen.end = max(seen.end, scratch[kWarps + w]);
  }
  __syncthreads();
  return seen.begin < seen.end ? seen : Seen{0, 0};
}

// What a warp has added up: its warpgroup's columns, of rows group and group + 8.
struct Sums {
  float largest[2] = {-INFINITY, -INFINITY};  // of scores times log2(e); alike in both warpgroups
  float total[2] = {};                        // of this lane's positions
  float out[kColumns / 8][4] = {};
};
using Scores = float[kScored / 8][4];

__device__ __forceinline__ void Score(uint32_t queries, uint32_t keys, Scores& scores) {
  WarpgroupArrive();
#pragma unroll
  for (int step = 0; step < kKeyDim / 16; ++step) {
    const uint32_t at = step / kStepsOfRow * kPartBytes + step % kStepsOfRow * kStepBytes;
    WarpgroupDot(scores, TileDescriptor(queries + at, 0), TileDescriptor(keys + at, 0), step > 0);
  }
  WarpgroupCommit();
  WarpgroupWait<0>();
  HoldSums(scores);
}

// Scores of positions from `first` on to weights in shared memory; moves the softmax on. The
// warpgroups meet once in between.
__device__ __forceinline__ void Weigh(const TileRanges& ranges, int first, float scale,
                                      Scores& scores, Shared& shared, Sums& sums) {
  const int lane = threadIdx.x % kWarp;
  const int group = threadIdx.x / (kGroupWarps * kWarp);
  const int warp_row = threadIdx.x / kWarp % kGroupWarps * kRows;
  const int position = first + group * kScored + 2 * (lane % 4);
  const bool whole = first >= ranges.common_from && first + kPositions <= ranges.common_to;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float largest = -INFINITY;
#pragma unroll
    for (int j = 0; j < kScored / 8; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& score = scores[j][2 * half + i];
        score = whole || Sees(ranges.own[half], position + 8 * j + i) ? score * scale : -INFINITY;
        largest = fmaxf(largest, score);
      }
    }
    largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 2));
    if (lane % 4 == 0) shared.by_group[group][warp_row + lane / 4 + 8 * half] = largest;
  }
  __syncthreads();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp_row + lane / 4 + 8 * half;
    const float now =
        fmaxf(sums.largest[half], fmaxf(shared.by_group[0][row], shared.by_group[1][row]));
    const float base = now == -INFINITY ? 0.0f : now;  // a row that saw nothing yet
    const float correction = Exp2(sums.largest[half] - base);
    sums.largest[half] = now;
    sums.total[half] *= correction;
#pragma unroll
    for (int j = 0; j < kScored / 8; ++j) {
      const float low = Exp2(scores[j][2 * half] - base);
      const float high = Exp2(scores[j][2 * half + 1] - base);
      sums.total[half] += low + high;
      __nv_bfloat16* to = shared.weights + SwizzledOffset(row, group * (kScored / 8) + j);
      *reinterpret_cast<uint32_t*>(to + 2 * (lane % 4)) = PackPair<__nv_bfloat16>(low, high);
    }
    // Once the largest is found it seldom moves again.
    if (!__any_sync(kAllLanes, correction != 1.0f)) continue;
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      sums.out[j][2 * half] *= correction;
      sums.out[j][2 * half + 1] *= correction;
    }
  }
}

__device__ __forceinline__ void AddValues(uint32_t weights, uint32_t values, Sums& sums) {
  WarpgroupArrive();
#pragma unroll
  for (int step = 0; step < kPositions / 16; ++step) {
    WarpgroupSum(sums.out, TileDescriptor(weights + step * kStepBytes, 0),
                 TileDescriptor(values + step * 16 * kRowBytes, kPartBytes), true);
  }
  WarpgroupCommit();
  WarpgroupWait<0>();
  HoldSums(sums.out);
}

// The warp's part of the result, straight from the registers.
template <class Out>
__device__ __forceinline__ void StorePairs(const AttentionParams& p, const SplitTile& tile,
                                           const Sums& sums, const float (&factors)[2]) {
  const int lane = threadIdx.x % kWarp;
  const int group = threadIdx.x / (kGroupWarps * kWarp);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = lane / 4 + 8 * half;
    if (row >= tile.RowCount()) continue;
    Out* out = static_cast<Out*>(p.out) + tile.OutOf(p, row) + group * kColumns + 2 * (lane % 4);
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      out[8 * j] = FromFloat<Out>(sums.out[j][2 * half] * factors[half]);
      out[8 * j + 1] = FromFloat<Out>(sums.out[j][2 * half + 1] * factors[half]);
    }
  }
}

// The same through shared memory, 16 bytes at a time.
template <class Out>
__device__ __forceinline__ void StoreRows(const AttentionParams& p, const SplitTile& tile,
                                          const Sums& sums, const float (&factors)[2],
                                          Shared& shared) {
  constexpr int kStride = kColumns + 8;
  constexpr int kPieces = kColumns / 8;
  static_assert(kWarps * kRows * kStride * sizeof(Out) <= sizeof(shared.kv[0]));
  const int lane = threadIdx.x % kWarp;
  const int group = threadIdx.x / (kGroupWarps * kWarp);
  auto* own = reinterpret_cast<Out*>(&shared.kv[0]) + threadIdx.x / kWarp * kRows * kStride;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    Out* row = own + (lane / 4 + 8 * half) * kStride + 2 * (lane % 4);
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      *reinterpret_cast<uint32_t*>(row + 8 * j) = PackPair<Out>(
          sums.out[j][2 * half] * factors[half], sums.out[j][2 * half + 1] * factors[half]);
    }
  }
  __syncwarp();
  for (int i = lane; i < tile.RowCount() * kPieces; i += kWarp) {
    const int row = i / kPieces;
    const int piece = i % kPieces;
    Out* out = static_cast<Out*>(p.out) + tile.OutOf(p, row) + group * kColumns + piece * 8;
    *reinterpret_cast<uint4*>(out) =
        *reinterpret_cast<const uint4*>(own + row * kStride + piece * 8);
  }
}

// The result, from the warpgroups' totals on.
__device__ __forceinline__ void StoreResult(const AttentionParams& p, const SplitTile& tile,
                                            const Sums& sums, Shared& shared) {
  const int lane = threadIdx.x % kWarp;
  const int group = threadIdx.x / (kGroupWarps * kWarp);
  const int warp_row = threadIdx.x / kWarp % kGroupWarps * kRows;
  __syncthreads();  // the largest scores were read
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float total = sums.total[half];
    total += __shfl_xor_sync(kAllLanes, total, 1);
    total += __shfl_xor_sync(kAllLanes, total, 2);
    if (lane % 4 == 0) shared.by_group[group][warp_row + lane / 4 + 8 * half] = total;
  }
  __syncthreads();
  float factors[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp_row + lane / 4 + 8 * half;
    factors[half] = Inverse(shared.by_group[0][row] + shared.by_group[1][row]);
  }
  if (p.out_dtype == DType::kF32) {
    StorePairs<float>(p, tile, sums, factors);
  } else if (p.out_dtype == DType::kBF16) {
    StoreRows<__nv_bfloat16>(p, tile, sums, factors, shared);
  } else {
    StoreRows<__half>(p, tile, sums, factors, shared);
  }
}

// One block a tile of rows: grid (row_tiles, 1, sequences).
__global__ void __launch_bounds__(kThreads, 1)
    LatentTilesKernel(const __grid_constant__ LatentTilesParams params) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ char memory[];
  char* aligned = memory + (kAlignment - SharedAddress(memory) % kAlignment) % kAlignment;
  Shared& shared = *reinterpret_cast<Shared*>(aligned);
  const AttentionParams& p = params.attention;
  SplitTile tile = PlaceTile(p, params.row_tiles);
  // The last rows see most: they start first.
  const int first_row = (params.row_tiles - 1 - static_cast<int>(blockIdx.x)) * kTileRows;
  if (first_row >= tile.rows) return;
  tile.first_row = first_row + static_cast<int>(threadIdx.x) / kWarp % kGroupWarps * kRows;
  const TileRanges ranges = RangesOfTile(p, tile, threadIdx.x % kWarp);
  const Seen seen = SeenByBlock(ranges, shared.kv_rows[0]);
  const int begin = seen.begin / kPositions * kPositions;
  // Where this thread's position of a tile lies, in rows of pages; -1 for what no row sees.
  const auto row_at = [&](int first) {
    const int position = first + static_cast<int>(threadIdx.x);
    return threadIdx.x >= kPositions || position < seen.begin || position >= seen.end
               ? -1
               : RowOfPosition(p, tile.sequence, 0, position);
  };
  const auto keep_row = [&](int32_t row, int32_t* kv_rows) {
    if (threadIdx.x < kPositions) kv_rows[threadIdx.x] = row;
  };
  keep_row(row_at(begin), shared.kv_rows[0]);
  keep_row(row_at(begin + kPositions), shared.kv_rows[1]);
  __syncthreads();
  if (begin < seen.end) CopyTile(p.k, shared.kv_rows[0], shared.kv[0]);
  CopyAsyncCommit();
  LoadQueries(p, tile, shared.q);

  const uint32_t group = threadIdx.x / (kGroupWarps * kWarp);
  const uint32_t queries = SharedAddress(&shared.q);
  const uint32_t weights = SharedAddress(shared.weights);
  const float scale = p.scale * kLog2e;
  Sums sums;
  Scores scores;
  int now = 0;
  for (int first = begin; first < seen.end; first += kPositions, now ^= 1) {
    const int32_t kv_row = row_at(first + 2 * kPositions);
    CopyAsyncWait<0>();
    PublishToProducts();
    __syncthreads();  // the tile is there, the last one was read
    if (first + kPositions < seen.end) {
      CopyTile(p.k, shared.kv_rows[now ^ 1], shared.kv[now ^ 1]);
      CopyAsyncCommit();
    }
    const uint32_t kv = SharedAddress(&shared.kv[now]);
    Score(queries, kv + group * kScored * kRowBytes, scores);
    Weigh(ranges, first, scale, scores, shared, sums);
    PublishToProducts();
    __syncthreads();  // weights are there
    AddValues(weights, kv + group * (kColumns / kWide) * kPartBytes, sums);
    keep_row(kv_row, shared.kv_rows[now]);
  }
  StoreResult(p, tile, sums, shared);
#endif
}

int RowTiles(const AttentionParams& params) {
  return CeilDiv(params.tables.max_query_count * params.num_heads, kTileRows);
}

}  // namespace

bool HasLatentTiles(const AttentionParams& params, CudaStream& stream) {
#if defined(SLUICE_CUDA_WARPGROUPS)
  // A block is some four times as fast as those of FastLatentAttention, which are many more.
  constexpr int kSpeed = 4;
  const auto multiple = [](const void* data, int64_t first_stride, int64_t second_stride,
                           int64_t bytes, int64_t size) {
    return reinterpret_cast<uintptr_t>(data) % bytes == 0 && first_stride * size % bytes == 0 &&
           second_stride * size % bytes == 0;
  };
  constexpr int64_t kPair = sizeof(float2);
  constexpr int64_t kPiece = sizeof(uint4);
  const CudaDeviceInfo& device = stream.device();
  return device.compute_major == 9 && device.compute_minor == 0 &&
         multiple(params.q, params.q_token_stride, params.q_head_stride, kPair, sizeof(float)) &&
         multiple(params.q_rope, params.q_rope_token_stride, params.q_rope_head_stride, kPair,
                  sizeof(float)) &&
         multiple(params.out, params.out_token_stride, params.out_head_stride, kPiece,
                  static_cast<int64_t>(SizeOf(params.out_dtype))) &&
         kSpeed * RowTiles(params) * params.tables.sequences >= device.multiprocessors;
#else
  return false;
#endif
}

void LatentTiles(const AttentionParams& params, CudaStream& stream) {
  const LatentTilesParams tiles{.attention = params, .row_tiles = RowTiles(params)};
  const LaunchShape shape{.grid = dim3(tiles.row_tiles, 1, params.tables.sequences),
                          .block = kThreads,
                          .shared_bytes = sizeof(Shared) + kAlignment};
  AllowShared("latent_attention", &LatentTilesKernel, shape.shared_bytes);
  Launch("latent_attention", &LatentTilesKernel, shape, stream, tiles);
}

}  // namespace sluice::ops::cuda
