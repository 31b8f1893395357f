#include <algorithm>

#include "ops/common/cuda/launch.cuh"
#include "ops/common/cuda/math.cuh"
#include "ops/common/cuda/mma.cuh"
#include "ops/gemm/gemm_cuda.h"

namespace sluice::ops::cuda {
namespace {

constexpr int kDepth = 64;                // elements of K in a stage: a row is 128 bytes
constexpr int kPiece = 8;                 // elements in 16 bytes
constexpr int kPieces = kDepth / kPiece;  // a row's

// A block's tile of out, how its warps share it, and how many stages of K are under way.
template <int kRowsOf, int kColumnsOf, int kWarpRowsOf, int kWarpColumnsOf, int kStagesOf,
          int kBlocksTogetherOf>
struct TileConfig {
  static constexpr int kRows = kRowsOf;
  static constexpr int kColumns = kColumnsOf;
  static constexpr int kWarpRows = kWarpRowsOf;
  static constexpr int kWarpColumns = kWarpColumnsOf;
  static constexpr int kStages = kStagesOf;
  static constexpr int kBlocksTogether = kBlocksTogetherOf;  // on a multiprocessor
  static constexpr int kThreads = kRows / kWarpRows * (kColumns / kWarpColumns) * kWarp;
  static constexpr int kRowTiles = kWarpRows / 16;        // mma tiles of a warp
  static constexpr int kColumnPairs = kWarpColumns / 16;  // two mma tiles each
  static constexpr int kStageElements = (kRows + kColumns) * kDepth;
  static constexpr size_t kSharedBytes = size_t{2} * kStages * kStageElements;
};
// 96 KB and 64 KB: every architecture from sm_80 on lets a block have 99.
using LargeTile = TileConfig<128, 128, 64, 32, 3, 1>;
using SmallTile = TileConfig<64, 64, 32, 32, 4, 3>;

struct TileParams {
  GemmParams gemm;
  int64_t splits;        // parts of K, each a block's
  int64_t split_stages;  // stages of K in a part
  float* partial;        // [splits, heads, rows, columns] where there are several, else null
};

// Starts copies of a stage's rows of one operand, each of 64 elements from `k` on. Rows and columns
// that are not there become zeros.
template <class T, int kRows, int kThreads>
__device__ __forceinline__ void CopyRowsAsync(T* shared, const T* from, int64_t stride,
                                              int64_t rows, int64_t k, int64_t depth) {
  static_assert(kRows * kPieces % kThreads == 0);
#pragma unroll
  for (int i = 0; i < kRows * kPieces / kThreads; ++i) {
    const int index = i * kThreads + threadIdx.x;
    const int row = index / kPieces;
    const int piece = index % kPieces;
    const int64_t column = k + piece * kPiece;
    const bool valid = row < rows && column < depth;
    CopyAsync16(shared + SwizzledOffset(row, piece), valid ? from + row * stride + column : from,
                valid);
  }
}

// One stage's products of a warp's part of the tile.
template <class T, class Tile>
__device__ __forceinline__ void MultiplyStage(
    const T* x, const T* w, int lane, float (&sums)[Tile::kRowTiles][2 * Tile::kColumnPairs][4]) {
#pragma unroll
  for (int k = 0; k < kPieces; k += 2) {
    uint32_t a[Tile::kRowTiles][4];
    uint32_t b[Tile::kColumnPairs][4];
#pragma unroll
    for (int r = 0; r < Tile::kRowTiles; ++r) {
      LoadTiles4(a[r], x + SwizzledOffset(r * 16 + lane % 16, k + lane / 16));
    }
#pragma unroll
    for (int c = 0; c < Tile::kColumnPairs; ++c) {
      const int row = c * 16 + lane % 8 + lane / 16 * 8;
      LoadTiles4(b[c], w + SwizzledOffset(row, k + lane / 8 % 2));
    }
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

// Writes one sum: to out with bias and what was there, or to its part of the scratch.
__device__ __forceinline__ void StoreSum(const TileParams& p, int64_t head, int64_t split,
                                         int64_t row, int64_t column, float sum) {
  const GemmParams& g = p.gemm;
  if (row >= g.rows || column >= g.columns) return;
  if (p.partial != nullptr) {
    p.partial[((split * g.heads + head) * g.rows + row) * g.columns + column] = sum;
    return;
  }
  float& out = g.out[head * g.out_head_stride + row * g.out_stride + column];
  const float before = g.accumulate ? out : 0.0f;
  out = (g.bias == nullptr ? before : before + g.bias[column]) + sum;
}

template <class T, class Tile>
__global__ void __launch_bounds__(Tile::kThreads) TilesKernel(const TileParams p) {
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  T* shared = reinterpret_cast<T*>(shared_bytes);
  const GemmParams& g = p.gemm;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * Tile::kRows;
  const int64_t first_column = static_cast<int64_t>(blockIdx.y) * Tile::kColumns;
  const int64_t head = blockIdx.z / p.splits;
  const int64_t split = blockIdx.z % p.splits;
  const T* x = static_cast<const T*>(g.x) + head * g.x_head_stride + first_row * g.x_stride;
  const T* w = static_cast<const T*>(g.w) + (head * g.columns + first_column) * g.depth;
  const int64_t first_k = split * p.split_stages * kDepth;
  const int64_t stages = min(p.split_stages, CeilDiv(g.depth - first_k, int64_t{kDepth}));

  const auto copy_x = [&](int64_t stage) {
    if (stage >= stages) return;
    CopyRowsAsync<T, Tile::kRows, Tile::kThreads>(
        shared + stage % Tile::kStages * Tile::kStageElements, x, g.x_stride, g.rows - first_row,
        first_k + stage * kDepth, g.depth);
  };
  const auto copy_w = [&](int64_t stage) {
    if (stage >= stages) return;
    CopyRowsAsync<T, Tile::kColumns, Tile::kThreads>(
        shared + stage % Tile::kStages * Tile::kStageElements + Tile::kRows * kDepth, w, g.depth,
        g.columns - first_column, first_k + stage * kDepth, g.depth);
  };

  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  constexpr int kWarpsAcross = Tile::kColumns / Tile::kWarpColumns;
  const int warp_row = warp / kWarpsAcross * Tile::kWarpRows;
  const int warp_column = warp % kWarpsAcross * Tile::kWarpColumns;
  float sums[Tile::kRowTiles][2 * Tile::kColumnPairs][4] = {};

  LetNextStart();
#pragma unroll
  for (int stage = 0; stage < Tile::kStages - 1; ++stage) copy_w(stage);
  WaitForEarlier();
#pragma unroll
  for (int stage = 0; stage < Tile::kStages - 1; ++stage) {
    copy_x(stage);
    CopyAsyncCommit();
  }
  for (int64_t stage = 0; stage < stages; ++stage) {
    CopyAsyncWait<Tile::kStages - 2>();
    // The stage has arrived for every thread, and every thread is done with the one before it,
    // whose place the next copy takes.
    __syncthreads();
    copy_x(stage + Tile::kStages - 1);
    copy_w(stage + Tile::kStages - 1);
    CopyAsyncCommit();  // an empty group too, so that the count of groups is that of stages
    const T* at = shared + stage % Tile::kStages * Tile::kStageElements;
    MultiplyStage<T, Tile>(at + warp_row * kDepth, at + (Tile::kRows + warp_column) * kDepth, lane,
                           sums);
  }

#pragma unroll
  for (int r = 0; r < Tile::kRowTiles; ++r) {
#pragma unroll
    for (int c = 0; c < 2 * Tile::kColumnPairs; ++c) {
      const int64_t row = first_row + warp_row + r * 16 + lane / 4;
      const int64_t column = first_column + warp_column + c * 8 + lane % 4 * 2;
      StoreSum(p, head, split, row, column, sums[r][c][0]);
      StoreSum(p, head, split, row, column + 1, sums[r][c][1]);
      StoreSum(p, head, split, row + 8, column, sums[r][c][2]);
      StoreSum(p, head, split, row + 8, column + 1, sums[r][c][3]);
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
  float& out = g.out[head * g.out_head_stride + row * g.out_stride + column];
  float sum = g.accumulate ? out : 0.0f;
  if (g.bias != nullptr) sum += g.bias[column];
  for (int64_t split = 0; split < p.splits; ++split) sum += p.partial[split * size + index];
  out = sum;
}

// How many parts to cut K into, so that `places` blocks run at once: more parts mean more partial
// sums to write and read.
int64_t Splits(int64_t blocks, int64_t stages, int64_t places) {
  constexpr int64_t kMinStages = 4;
  constexpr int64_t kMaxSplits = 8;
  const int64_t wanted = places / std::max<int64_t>(1, blocks);
  return std::clamp<int64_t>(std::min(wanted, stages / kMinStages), 1, kMaxSplits);
}

template <class T, class Tile>
void LaunchTiles(const GemmParams& gemm, Arena& arena, CudaStream& stream) {
  const int64_t row_blocks = CeilDiv(gemm.rows, int64_t{Tile::kRows});
  const int64_t column_blocks = CeilDiv(gemm.columns, int64_t{Tile::kColumns});
  const int64_t stages = CeilDiv(gemm.depth, int64_t{kDepth});
  const int64_t blocks = row_blocks * column_blocks * gemm.heads;
  const int64_t wanted =
      Splits(blocks, stages, int64_t{Tile::kBlocksTogether} * stream.device().multiprocessors);
  TileParams params{
      .gemm = gemm, .splits = wanted, .split_stages = CeilDiv(stages, wanted), .partial = nullptr};
  params.splits = CeilDiv(stages, params.split_stages);  // none is empty
  const Arena::Scope scope(arena);
  if (params.splits > 1) {
    params.partial =
        arena.Allocate(DType::kF32, {params.splits, gemm.heads, gemm.rows, gemm.columns})
            .data<float>();
  }
  AllowShared("gemm_tiles", &TilesKernel<T, Tile>, Tile::kSharedBytes);
  const LaunchShape shape{
      .grid = dim3(static_cast<unsigned>(row_blocks), static_cast<unsigned>(column_blocks),
                   static_cast<unsigned>(gemm.heads * params.splits)),
      .block = Tile::kThreads,
      .shared_bytes = Tile::kSharedBytes};
  LaunchEarly<&TilesKernel<T, Tile>>("gemm_tiles", shape, stream, params);
  if (params.splits == 1) return;
  const int64_t size = gemm.heads * gemm.rows * gemm.columns;
  LaunchEarly<&SumSplitsKernel>(
      "gemm_sum_splits",
      {.grid = static_cast<unsigned>(CeilDiv(size, int64_t{kSumThreads})), .block = kSumThreads},
      stream, params);
}

template <class T>
void ForRows(const GemmParams& params, Arena& arena, CudaStream& stream) {
  if (params.rows <= SmallTile::kRows) {
    LaunchTiles<T, SmallTile>(params, arena, stream);
  } else {
    LaunchTiles<T, LargeTile>(params, arena, stream);
  }
}

}  // namespace

void GemmTiles(const GemmParams& params, Arena& arena, CudaStream& stream) {
  if (params.w_dtype == DType::kBF16) {
    ForRows<__nv_bfloat16>(params, arena, stream);
  } else {
    ForRows<__half>(params, arena, stream);
  }
}

}  // namespace sluice::ops::cuda
