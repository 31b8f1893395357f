#include "ops/common/cuda/cluster.cuh"
#include "ops/gemm/gemm_tiles.cuh"

namespace sluice::ops::cuda {
namespace {

// A block's tile of out, how its warps share it, and how many stages of K are under way. Where K is
// cut into parts, each is summed up from zero and added to those before: either by blocks of their
// own, or by the one block of a tile that adds parts up (kAddsUp). Both give the same bits.
template <int kRowsOf, int kColumnsOf, int kWarpRowsOf, int kWarpColumnsOf, int kStagesOf,
          int kBlocksTogetherOf, bool kAddsUpParts = false>
struct TileConfig {
  static constexpr int kRows = kRowsOf;
  static constexpr int kColumns = kColumnsOf;
  static constexpr int kWarpRows = kWarpRowsOf;
  static constexpr int kWarpColumns = kWarpColumnsOf;
  static constexpr int kStages = kStagesOf;
  static constexpr int kBlocksTogether = kBlocksTogetherOf;  // on a multiprocessor
  static constexpr bool kAddsUp = kAddsUpParts;
  static constexpr int kThreads = kRows / kWarpRows * (kColumns / kWarpColumns) * kWarp;
  static constexpr int kRowTiles = kWarpRows / 16;        // mma tiles of a warp
  static constexpr int kColumnPairs = kWarpColumns / 16;  // two mma tiles each
  static constexpr int kStageElements = (kRows + kColumns) * kGemmDepth;
  static constexpr size_t kSharedBytes = size_t{2} * kStages * kStageElements;
};
// 96 KB and 64 KB: every architecture from sm_80 on lets a block have 99.
using LargeTile = TileConfig<128, 128, 64, 32, 3, 2>;
using SmallTile = TileConfig<64, 64, 32, 32, 4, 3>;
using PartsTile = TileConfig<128, 64, 32, 32, 4, 2, true>;

// One stage's products of a warp's part of the tile. `x` and `w` are the addresses of this lane's
// row and piece of the first tile: LaneOfX, LaneOfW.
template <class T, class Tile>
__device__ __forceinline__ void MultiplyStage(
    uint32_t x, uint32_t w, float (&sums)[Tile::kRowTiles][2 * Tile::kColumnPairs][4]) {
  constexpr int kTileBytes = 16 * kGemmRowBytes;
#pragma unroll
  for (int k = 0; k < kGemmPieces; k += 2) {
    // The swizzle of piece k + (0 or 1) is that of the latter with k's bits turned.
    const uint32_t turn = k * 16;
    uint32_t a[Tile::kRowTiles][4];
    uint32_t b[Tile::kColumnPairs][4];
#pragma unroll
    for (int r = 0; r < Tile::kRowTiles; ++r) LoadTiles4(a[r], (x ^ turn) + r * kTileBytes);
#pragma unroll
    for (int c = 0; c < Tile::kColumnPairs; ++c) LoadTiles4(b[c], (w ^ turn) + c * kTileBytes);
#pragma unroll
    for (int r = 0; r < Tile::kRowTiles; ++r) {
#pragma unroll
      for (int c = 0; c < Tile::kColumnPairs; ++c) {
        Mma<T>(sums[r][2 * c], a[r], b[c][0], b[c][1]);
        Mma<T>(sums[r][2 * c + 1], a[r], b[c][2], b[c][3]);
      }
    }
  }
}

// Bytes from a tile of 16 rows to the row and piece whose address a lane gives LoadTiles4.
__device__ __forceinline__ uint32_t LaneOfX(int lane) {
  return 2 * SwizzledOffset(lane % 16, lane / 16);
}
__device__ __forceinline__ uint32_t LaneOfW(int lane) {
  return 2 * SwizzledOffset(lane % 8 + lane / 16 * 8, lane / 8 % 2);
}

template <class Tile>
using TileSums = float[Tile::kRowTiles][2 * Tile::kColumnPairs][4];

// totals += sums, which are zero then.
template <class Tile>
__device__ __forceinline__ void AddPart(TileSums<Tile>& sums, TileSums<Tile>& totals) {
#pragma unroll
  for (int r = 0; r < Tile::kRowTiles; ++r) {
#pragma unroll
    for (int c = 0; c < 2 * Tile::kColumnPairs; ++c) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        totals[r][c][i] += sums[r][c][i];
        sums[r][c][i] = 0.0f;
      }
    }
  }
}

// The element of out that a tile's row and column are, on top of which go the parts of K in their
// order.
__device__ __forceinline__ void StoreSum(const GemmParams& g, int64_t head, int64_t row,
                                         int64_t column, float sum) {
  float& out = static_cast<float*>(g.out)[head * g.out_head_stride + row * g.out_stride + column];
  if (g.accumulate) sum += out;
  if (g.bias != nullptr) sum += g.bias[column];
  out = sum;
}

// Adds up the parts of K that the blocks of a cluster have, each of which stores a share of the
// tile. `memory` is what the stages were in.
template <class Tile>
__device__ __forceinline__ void StoreTogether(const TileParams& p, const BlockPart& part,
                                              const TileSums<Tile>& sums, int warp_row,
                                              int warp_column, void* memory) {
  constexpr int kStride = Tile::kColumns + 8;  // floats between rows, in different banks
  static_assert(sizeof(float) * Tile::kRows * kStride <= Tile::kSharedBytes);
  const GemmParams& g = p.gemm;
  const int rows = static_cast<int>(min(int64_t{Tile::kRows}, g.rows - part.first_row));
  const int lane = threadIdx.x % kWarp;
  float* own = static_cast<float*>(memory);
  CopyAsyncWait<0>();
  __syncthreads();  // the stages were read
#pragma unroll
  for (int r = 0; r < Tile::kRowTiles; ++r) {
#pragma unroll
    for (int c = 0; c < 2 * Tile::kColumnPairs; ++c) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = warp_row + r * 16 + lane / 4 + 8 * half;
        const int column = warp_column + c * 8 + lane % 4 * 2;
        if (row >= rows) continue;
        *reinterpret_cast<float2*>(own + row * kStride + column) = {sums[r][c][2 * half],
                                                                    sums[r][c][2 * half + 1]};
      }
    }
  }
  ClusterBarrier();
  const auto splits = static_cast<int>(p.splits);
  for (int e = static_cast<int>(part.split) * Tile::kThreads + static_cast<int>(threadIdx.x);
       e < rows * Tile::kColumns; e += splits * Tile::kThreads) {
    const int row = e / Tile::kColumns;
    const int64_t column = part.first_column + e % Tile::kColumns;
    if (column >= g.columns) continue;
    const uint32_t at = SharedAddress(own + row * kStride + e % Tile::kColumns);
    float parts[kMostInCluster];
#pragma unroll
    for (int split = 0; split < static_cast<int>(kMostInCluster); ++split) {
      parts[split] = split < splits ? LoadFromBlock(at, split) : 0.0f;
    }
    float sum = 0.0f;
#pragma unroll
    for (int split = 0; split < static_cast<int>(kMostInCluster); ++split) {
      if (split < splits) sum += parts[split];
    }
    StoreSum(g, part.head, part.first_row + row, column, sum);
  }
  ClusterBarrier();  // the others have read this block's part
}

template <class T, class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocksTogether)
    TilesKernel(const TileParams p) {
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  LetNextStart();
  const BlockPart part = BlockPart::Of<Tile>(p);
  const auto part_stages = static_cast<int>(p.part_stages);
  const int all_stages = CeilDiv(part.depth, kGemmDepth);
  const int stages = Tile::kAddsUp ? all_stages : min(part_stages, all_stages);
  const uint32_t shared = SharedAddress(shared_bytes);
  using Copier = StageCopier<T, Tile>;
  const Copier copier(p.gemm, part, stages, shared);

  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  constexpr int kWarpsAcross = Tile::kColumns / Tile::kWarpColumns;
  const int warp_row = warp / kWarpsAcross * Tile::kWarpRows;
  const int warp_column = warp % kWarpsAcross * Tile::kWarpColumns;
  const uint32_t lane_x = shared + warp_row * kGemmRowBytes + LaneOfX(lane);
  const uint32_t lane_w = shared + Copier::kXBytes + warp_column * kGemmRowBytes + LaneOfW(lane);
  TileSums<Tile> sums = {};
  TileSums<Tile> totals = {};  // of whole parts, where the block adds them up

  copier.Begin();
  int slot = 0;
  int free_slot = Tile::kStages - 1;
  for (int stage = 0; stage < stages; ++stage) {
    CopyAsyncWait<Tile::kStages - 2>();
    // The stage has arrived for every thread, and every thread is done with the one before it,
    // whose place the next copy takes.
    __syncthreads();
    copier.Copy(stage + Tile::kStages - 1, free_slot);
    const uint32_t at = slot * Copier::kStageBytes;
    MultiplyStage<T, Tile>(lane_x + at, lane_w + at, sums);
    free_slot = slot;
    slot = slot + 1 == Tile::kStages ? 0 : slot + 1;
    if constexpr (Tile::kAddsUp) {
      if ((stage + 1) % part_stages == 0 || stage + 1 == stages) AddPart<Tile>(sums, totals);
    }
  }
  const TileSums<Tile>& result = Tile::kAddsUp ? totals : sums;
  if (!Tile::kAddsUp && p.splits > 1 && p.partial == nullptr) {
    StoreTogether<Tile>(p, part, sums, warp_row, warp_column, shared_bytes);
    return;
  }

#pragma unroll
  for (int r = 0; r < Tile::kRowTiles; ++r) {
#pragma unroll
    for (int c = 0; c < 2 * Tile::kColumnPairs; ++c) {
      const int64_t row = part.first_row + warp_row + r * 16 + lane / 4;
      const int64_t column = part.first_column + warp_column + c * 8 + lane % 4 * 2;
      StoreSums(p, part, row, column, result[r][c][0], result[r][c][1]);
      StoreSums(p, part, row + 8, column, result[r][c][2], result[r][c][3]);
    }
  }
}

constexpr int kSumThreads = 256;

// Adds up the parts of K in their order; one thread an element of out.
__global__ void SumSplitsKernel(const TileParams p) {
  LetNextStart();
  const GemmParams& g = p.gemm;
  const int64_t size = g.heads * g.rows * g.columns;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kSumThreads + threadIdx.x;
  if (index >= size) return;
  WaitForEarlier();
  const int64_t column = index % g.columns;
  const int64_t row = index / g.columns % g.rows;
  const int64_t head = index / g.columns / g.rows;
  float sum = 0.0f;
  for (int64_t split = 0; split < p.splits; ++split) sum += p.partial[split * size + index];
  StoreSum(g, head, row, column, sum);
}

template <class T, class Tile>
void LaunchTiles(const GemmParams& gemm, const Cut& cut, Arena& arena, CudaStream& stream) {
  const Arena::Scope scope(arena);
  // Blocks that share K add up what they have where they can read each other's memory: on such a
  // device, by code that was compiled for one.
  const bool together = cut.splits > 1 && stream.device().compute_major >= 9 &&
                        CanStartEarly<&TilesKernel<T, Tile>>("gemm_tiles");
  const TileParams params = together ? ParamsOf(gemm, cut) : ParamsOf(gemm, cut, arena);
  AllowShared("gemm_tiles", &TilesKernel<T, Tile>, Tile::kSharedBytes);
  const LaunchShape shape{.grid = GridOf(gemm, cut),
                          .block = Tile::kThreads,
                          .shared_bytes = Tile::kSharedBytes,
                          .cluster = together ? static_cast<unsigned>(cut.splits) : 1};
  LaunchEarly<&TilesKernel<T, Tile>>("gemm_tiles", shape, stream, params);
  if (params.partial != nullptr) SumSplits(params, stream);
}

// With K always in the parts that suit one block of rows.
template <class T>
void ForAnyRows(const GemmParams& params, Arena& arena, CudaStream& stream) {
  // Up to so many rows the parts have blocks of their own, whose sums take memory.
  constexpr int64_t kMostSplitRows = 2 * SmallTile::kRows;
  GemmParams one_block = params;
  one_block.rows = SmallTile::kRows;
  const Cut parts = CutInto<SmallTile>(one_block, stream);
  if (params.rows <= kMostSplitRows) {
    Cut cut = parts;
    cut.row_blocks = CeilDiv(params.rows, int64_t{SmallTile::kRows});
    LaunchTiles<T, SmallTile>(params, cut, arena, stream);
  } else if (parts.splits == 1) {
    LaunchTiles<T, LargeTile>(params, CutRowsAndColumns<LargeTile>(params), arena, stream);
  } else {
    Cut cut = CutRowsAndColumns<PartsTile>(params);
    cut.part_stages = parts.part_stages;
    LaunchTiles<T, PartsTile>(params, cut, arena, stream);
  }
}

template <class T>
void ForRows(const GemmParams& params, Arena& arena, CudaStream& stream) {
  if (params.batch_invariant) return ForAnyRows<T>(params, arena, stream);
  if (HasGemmWarpgroups(params, stream)) return GemmByWarpgroups(params, arena, stream);
  // The large tile reads less for each product, where it leaves no multiprocessors idle.
  constexpr double kMinFill = 0.75;
  const Cut large = CutInto<LargeTile>(params, stream);
  if (params.rows <= SmallTile::kRows || large.fill < kMinFill) {
    LaunchTiles<T, SmallTile>(params, CutInto<SmallTile>(params, stream), arena, stream);
  } else {
    LaunchTiles<T, LargeTile>(params, large, arena, stream);
  }
}

}  // namespace

void SumSplits(const TileParams& params, CudaStream& stream) {
  const int64_t size = params.gemm.heads * params.gemm.rows * params.gemm.columns;
  LaunchEarly<&SumSplitsKernel>(
      "gemm_sum_splits",
      {.grid = static_cast<unsigned>(CeilDiv(size, int64_t{kSumThreads})), .block = kSumThreads},
      stream, params);
}

void GemmTiles(const GemmParams& params, Arena& arena, CudaStream& stream) {
  if (params.w_dtype == DType::kBF16) {
    ForRows<__nv_bfloat16>(params, arena, stream);
  } else {
    ForRows<__half>(params, arena, stream);
  }
}

}  // namespace sluice::ops::cuda
