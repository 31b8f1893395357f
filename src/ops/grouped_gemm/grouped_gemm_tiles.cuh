#pragma once

#include "ops/common/cuda/launch.cuh"
#include "ops/common/cuda/mma.cuh"
#include "ops/grouped_gemm/grouped_gemm.cuh"

// What the kernels of GroupedGemm share whose groups have many rows: tiles of rows by columns, that
// a block takes every gridDim-th of, and the copies of a tile's operands to shared memory. A
// configuration C says what a tile is: kRows of it, kMatrixRows of the matrix, kColumns of out. Its
// matrix rows come in parts of kPartRows, for kPartColumns of out: for SwiGLU the first half of a
// part are gates and the other half their ups.
namespace sluice::ops::cuda {

inline constexpr int kTileThreads = 256;
inline constexpr int kTileDepth = 64;  // k of a stage: a 128-byte row
static_assert(kTileDepth == kChunkOfK);
inline constexpr int kTilePieces = kTileDepth / 8;
inline constexpr int kRowsPerCopy = kTileThreads / kTilePieces;  // that the threads copy at a time

struct Tile {
  int32_t slot;
  int32_t begin;         // first row
  int32_t rows;          // at most kRows
  int64_t first_column;  // of out
};

// Fills starts[g] with the number of row tiles of the groups before g, [groups + 1].
template <int kRows>
__device__ void CountTiles(const GroupedParams& p, int32_t* starts, int32_t* warp_sums) {
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  int32_t base = 0;
  for (int first = 0; first < p.groups; first += kTileThreads) {
    const int group = first + static_cast<int>(threadIdx.x);
    int32_t count = 0;
    if (group < p.groups && p.slots[group] >= 0) {
      count = CeilDiv(p.offsets[group + 1] - p.offsets[group], kRows);
    }
    int32_t sum = count;
#pragma unroll
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const int32_t before = __shfl_up_sync(0xffffffffu, sum, offset);
      if (lane >= offset) sum += before;
    }
    if (lane == kWarp - 1) warp_sums[warp] = sum;
    __syncthreads();
    for (int w = 0; w < kTileThreads / kWarp; ++w) {
      if (w < warp) sum += warp_sums[w];
    }
    if (group < p.groups) starts[group] = base + sum - count;
    for (int w = 0; w < kTileThreads / kWarp; ++w) base += warp_sums[w];
    __syncthreads();
  }
  if (threadIdx.x == 0) starts[p.groups] = base;
  __syncthreads();
}

// Tiles of a group follow each other, those of the same columns first.
template <class C>
__device__ Tile FindTile(const GroupedParams& p, const int32_t* starts, int index,
                         int column_tiles) {
  const int row_tile = index / column_tiles;
  int low = 0;
  int high = p.groups - 1;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (starts[middle + 1] > row_tile) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  const int row_tiles = starts[low + 1] - starts[low];
  const int in_group = index - starts[low] * column_tiles;
  const int32_t begin = p.offsets[low] + in_group % row_tiles * C::kRows;
  return {.slot = p.slots[low],
          .begin = begin,
          .rows = min(C::kRows, p.offsets[low + 1] - begin),
          .first_column = int64_t{in_group / row_tiles} * C::kColumns};
}

// A thread's part of the copies of a tile: one 16-byte piece of every kRowsPerCopy-th row.
template <class T, class C>
class Copier {
 public:
  __device__ void Aim(const GroupedParams& p, const Tile& tile) {
    const int row = threadIdx.x / kTilePieces;
#pragma unroll
    for (int i = 0; i < kXCopies; ++i) {
      const int in_tile = row + i * kRowsPerCopy;
      x_[i] = in_tile < tile.rows ? RowOfX<T>(p, tile.begin + in_tile) : nullptr;
    }
    column_ = tile.first_column + row % C::kPartColumns;
    matrix_ = MatrixOf<T>(p, tile.slot) +
              (column_ + (row / C::kPartColumns != 0 ? p.columns : 0)) * p.depth;
  }

  // Starts the copy of stage `step` of k to `x` [kRows][64] and `matrix` [kMatrixRows][64],
  // swizzled.
  __device__ void Copy(const GroupedParams& p, int step, T* x, T* matrix) const {
    const int row = threadIdx.x / kTilePieces;
    const int piece = threadIdx.x % kTilePieces;
    const int64_t k = int64_t{step} * kTileDepth + piece * 8;
    const bool inside = k < p.depth;
#pragma unroll
    for (int i = 0; i < kXCopies; ++i) {
      const bool valid = inside && x_[i] != nullptr;
      const void* from = valid ? static_cast<const void*>(x_[i] + k) : p.x;
      CopyAsync16(x + SwizzledOffset(row + i * kRowsPerCopy, piece), from, valid);
    }
#pragma unroll
    for (int i = 0; i < kMatrixCopies; ++i) {
      // Rows of one copy lie in one warp's part; where a part has several copies, its halves do.
      const int part = i * kRowsPerCopy / C::kPartRows;
      const int in_part = i * kRowsPerCopy % C::kPartRows;
      const bool up = in_part >= C::kPartColumns;
      const int columns = part * C::kPartColumns + in_part % C::kPartColumns;
      const bool valid = inside && column_ + columns < p.columns;
      const int64_t rows = columns + (up ? p.columns : 0);
      const void* from = valid ? static_cast<const void*>(matrix_ + rows * p.depth + k) : p.slab;
      CopyAsync16(matrix + SwizzledOffset(row + i * kRowsPerCopy, piece), from, valid);
    }
  }

 private:
  static constexpr int kXCopies = C::kRows / kRowsPerCopy;
  static constexpr int kMatrixCopies = C::kMatrixRows / kRowsPerCopy;
  static_assert(C::kPartRows % kRowsPerCopy == 0 &&
                (C::kPartColumns % kRowsPerCopy == 0 || C::kPartRows == kRowsPerCopy));

  const T* x_[kXCopies];
  const T* matrix_;
  int64_t column_;
};

// A block's reading: through its tiles and their stages, over the border from one tile to the next,
// C::kStages - 1 stages ahead of the products. A tile's stages come part by part of K.
template <class T, class C>
class StageReader {
 public:
  __device__ StageReader(const GroupedParams& p, int parts, const int32_t* starts, T* stages)
      : p_(p),
        parts_(parts),
        starts_(starts),
        stages_(stages),
        column_tiles_(static_cast<int>(CeilDiv(p.columns, int64_t{C::kColumns}))),
        steps_(static_cast<int>(CeilDiv(p.depth, int64_t{kTileDepth}))),
        tiles_(starts[p.groups] * column_tiles_),
        tile_(static_cast<int>(blockIdx.x)) {}

  // Of the call's tiles, and of a tile's stages.
  __device__ int tiles() const { return tiles_; }
  __device__ int steps() const { return steps_; }
  __device__ Tile At(int index) const { return FindTile<C>(p_, starts_, index, column_tiles_); }

  // Starts the copies of the next stage, where there is one.
  __device__ __forceinline__ void Next() {
    if (tile_ < tiles_) {
      if (step_ == 0) copier_.Aim(p_, At(tile_));
      T* stage = stages_ + stage_ * C::kStageElements;
      copier_.Copy(p_, step_, stage, stage + C::kRows * kTileDepth);
      step_ += parts_;
      if (step_ >= steps_) step_ = ++part_;
      if (part_ == parts_) {
        step_ = part_ = 0;
        tile_ += static_cast<int>(gridDim.x);
      }
    }
    CopyAsyncCommit();
    stage_ = stage_ + 1 == C::kStages ? 0 : stage_ + 1;
  }

 private:
  const GroupedParams& p_;
  int parts_;
  const int32_t* starts_;
  T* stages_;
  int column_tiles_;
  int steps_;
  int tiles_;
  Copier<T, C> copier_;
  int tile_;
  int part_ = 0;
  int step_ = 0;
  int stage_ = 0;
};

// Two neighbouring columns of a row.
template <class T>
__device__ __forceinline__ void StorePair(const GroupedParams& p, int64_t row, int64_t column,
                                          float first, float second) {
  if (column < p.columns) StoreOut<T>(p, row, column, first);
  if (column + 1 < p.columns) StoreOut<T>(p, row, column + 1, second);
}

// Of a block: the stages, and where groups' tiles start. What a configuration's stages begin at a
// multiple of comes on top.
template <class C>
size_t TileSharedBytes(const GroupedParams& p) {
  return C::kStages * C::kStageElements * sizeof(uint16_t) + (p.groups + 1) * sizeof(int32_t);
}

// As many blocks as run at once, or fewer where there are fewer tiles.
template <class C>
LaunchShape TileShape(const GroupedParams& p, size_t shared_bytes, const CudaStream& stream) {
  const int64_t groups = p.rows < p.active_groups ? p.rows : p.active_groups;
  const int64_t most_tiles =
      (p.rows / C::kRows + groups) * CeilDiv(p.columns, int64_t{C::kColumns});
  const int64_t most_blocks = int64_t{C::kBlocks} * stream.device().multiprocessors;
  return {.grid = static_cast<unsigned>(most_tiles < most_blocks ? most_tiles : most_blocks),
          .block = kTileThreads,
          .shared_bytes = shared_bytes};
}

}  // namespace sluice::ops::cuda
