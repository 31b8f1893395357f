#include "ops/common/cuda/launch.cuh"
#include "ops/common/cuda/mma.cuh"
#include "ops/grouped_gemm/grouped_gemm.cuh"

// GroupedGemm where groups have many rows: tiles of rows by columns on tensor cores. A block stays
// and takes every gridDim-th tile; its reads run ahead of the products over the border of tiles.
namespace sluice::ops::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarpRows = 2;     // warps over a tile's rows, 16 rows in turn
constexpr int kWarpColumns = 4;  // warps over its matrix rows
constexpr int kDepth = 64;       // k of a stage: a 128-byte row
constexpr int kPieces = kDepth / 8;
constexpr int kRowsPerCopy = kThreads / kPieces;  // that the threads copy at a time

// A configuration. A wide tile reads the least from the caches for what it multiplies; a narrow one
// leaves room for more blocks, whose reads are then on their way together.
template <int kRowsOfTile, int kMatrixRowsOfTile, int kStagesOfTile, int kBlocksOfTile, bool kGlu>
struct Config {
  static constexpr int kRows = kRowsOfTile;
  static constexpr int kMatrixRows = kMatrixRowsOfTile;
  static constexpr int kStages = kStagesOfTile;
  static constexpr int kBlocks = kBlocksOfTile;  // a multiprocessor
  static constexpr bool kSwiGlu = kGlu;
  static constexpr int kColumns = kGlu ? kMatrixRows / 2 : kMatrixRows;  // of out
  static constexpr int kRowTiles = kRows / 16 / kWarpRows;               // a warp's products
  static constexpr int kWarpWidth = kMatrixRows / kWarpColumns;          // a warp's matrix rows
  static constexpr int kWarpTiles = kWarpWidth / 8;
  // Of a warp's matrix rows the first half are gates for SwiGLU, the other half their ups.
  static constexpr int kWarpColumnsOfOut = kGlu ? kWarpWidth / 2 : kWarpWidth;
  static constexpr int kStageElements = (kRows + kMatrixRows) * kDepth;
};

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
  for (int first = 0; first < p.groups; first += kThreads) {
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
    for (int w = 0; w < kThreads / kWarp; ++w) {
      if (w < warp) sum += warp_sums[w];
    }
    if (group < p.groups) starts[group] = base + sum - count;
    for (int w = 0; w < kThreads / kWarp; ++w) base += warp_sums[w];
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
    const int row = threadIdx.x / kPieces;
#pragma unroll
    for (int i = 0; i < kXCopies; ++i) {
      const int in_tile = row + i * kRowsPerCopy;
      x_[i] = in_tile < tile.rows ? RowOfX<T>(p, tile.begin + in_tile) : nullptr;
    }
    column_ = tile.first_column + row % C::kWarpColumnsOfOut;
    matrix_ = MatrixOf<T>(p, tile.slot) +
              (column_ + (row / C::kWarpColumnsOfOut != 0 ? p.columns : 0)) * p.depth;
  }

  // Starts the copy of stage `step` of k to `x` [kRows][64] and `matrix` [kMatrixRows][64],
  // swizzled.
  __device__ void Copy(const GroupedParams& p, int step, T* x, T* matrix) const {
    const int row = threadIdx.x / kPieces;
    const int piece = threadIdx.x % kPieces;
    const int64_t k = int64_t{step} * kDepth + piece * 8;
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
      const int part = i * kRowsPerCopy / C::kWarpWidth;
      const int in_part = i * kRowsPerCopy % C::kWarpWidth;
      const bool up = in_part >= C::kWarpColumnsOfOut;
      const int columns = part * C::kWarpColumnsOfOut + in_part % C::kWarpColumnsOfOut;
      const bool valid = inside && column_ + columns < p.columns;
      const int64_t rows = columns + (up ? p.columns : 0);
      const void* from = valid ? static_cast<const void*>(matrix_ + rows * p.depth + k) : p.slab;
      CopyAsync16(matrix + SwizzledOffset(row + i * kRowsPerCopy, piece), from, valid);
    }
  }

 private:
  static constexpr int kXCopies = C::kRows / kRowsPerCopy;
  static constexpr int kMatrixCopies = C::kMatrixRows / kRowsPerCopy;
  static_assert(C::kWarpWidth % kRowsPerCopy == 0 &&
                (C::kWarpColumnsOfOut % kRowsPerCopy == 0 || C::kWarpWidth == kRowsPerCopy));

  const T* x_[kXCopies];
  const T* matrix_;
  int64_t column_;
};

// sums += a stage's products of the warp: 16-row tiles warp_row, warp_row + 2, ... of which the
// first `row_tiles` have rows.
template <class T, class C>
__device__ void MultiplyStage(const T* x, const T* matrix, int row_tiles,
                              float (&sums)[C::kRowTiles][C::kWarpTiles][4]) {
  const int lane = threadIdx.x % kWarp;
  const int warp_row = threadIdx.x / kWarp / kWarpColumns;
  const int warp_column = threadIdx.x / kWarp % kWarpColumns;
#pragma unroll
  for (int k16 = 0; k16 < kDepth / 16; ++k16) {
    uint32_t b[C::kWarpTiles / 2][4];
#pragma unroll
    for (int n = 0; n < C::kWarpTiles / 2; ++n) {
      const int row = warp_column * C::kWarpWidth + n * 16 + lane / 16 * 8 + lane % 8;
      LoadTiles4(b[n], matrix + SwizzledOffset(row, k16 * 2 + lane / 8 % 2));
    }
#pragma unroll
    for (int m = 0; m < C::kRowTiles; ++m) {
      if (m >= row_tiles) continue;
      uint32_t a[4];
      const int row = (m * kWarpRows + warp_row) * 16 + lane % 16;
      LoadTiles4(a, x + SwizzledOffset(row, k16 * 2 + lane / 16));
#pragma unroll
      for (int n = 0; n < C::kWarpTiles; ++n) {
        Mma<T>(sums[m][n], a, b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
      }
    }
  }
}

// Two neighbouring columns of a row.
template <class T>
__device__ __forceinline__ void StorePair(const GroupedParams& p, int64_t row, int64_t column,
                                          float first, float second) {
  if (column < p.columns) StoreOut<T>(p, row, column, first);
  if (column + 1 < p.columns) StoreOut<T>(p, row, column + 1, second);
}

template <class T, class C>
__device__ void StoreTile(const GroupedParams& p, const Tile& tile,
                          const float (&sums)[C::kRowTiles][C::kWarpTiles][4]) {
  const int group = threadIdx.x % kWarp / 4;
  const int pair = threadIdx.x % 4;
  const int warp_row = threadIdx.x / kWarp / kWarpColumns;
  const int warp_column = threadIdx.x / kWarp % kWarpColumns;
  constexpr int kTiles = C::kWarpColumnsOfOut / 8;
#pragma unroll
  for (int m = 0; m < C::kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int in_tile = (m * kWarpRows + warp_row) * 16 + half * 8 + group;
      if (in_tile >= tile.rows) continue;
      const int64_t row = tile.begin + in_tile;
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        const int64_t column =
            tile.first_column + warp_column * C::kWarpColumnsOfOut + n * 8 + 2 * pair;
        float value[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const bool there = column + i < p.columns;
          value[i] = sums[m][n][half * 2 + i] + (there ? AddendAt(p, row, column + i) : 0.0f);
          if constexpr (C::kSwiGlu) {
            const float up = sums[m][n + kTiles][half * 2 + i] +
                             (there ? AddendAt(p, row, column + i + p.columns) : 0.0f);
            value[i] = SwiGlu(value[i], up);
          }
        }
        StorePair<T>(p, row, column, value[0], value[1]);
      }
    }
  }
}

template <class T, class C>
__global__ void __launch_bounds__(kThreads, C::kBlocks) TilesKernel(const GroupedParams p) {
  extern __shared__ __align__(128) std::byte shared[];
  T* const stages = reinterpret_cast<T*>(shared);
  int32_t* const starts = reinterpret_cast<int32_t*>(stages + C::kStages * C::kStageElements);
  __shared__ int32_t warp_sums[kThreads / kWarp];
  LetNextStart();
  WaitForEarlier();
  CountTiles<C::kRows>(p, starts, warp_sums);

  const auto column_tiles = static_cast<int>(CeilDiv(p.columns, int64_t{C::kColumns}));
  const int tiles = starts[p.groups] * column_tiles;
  const auto steps = static_cast<int>(CeilDiv(p.depth, int64_t{kDepth}));
  const auto stride = static_cast<int>(gridDim.x);

  // Where reading is: it runs kStages - 1 steps ahead.
  Copier<T, C> copier;
  int read_tile = static_cast<int>(blockIdx.x);
  int read_step = 0;
  int read_stage = 0;
  const auto read_next = [&] {
    if (read_tile < tiles) {
      if (read_step == 0) copier.Aim(p, FindTile<C>(p, starts, read_tile, column_tiles));
      T* stage = stages + read_stage * C::kStageElements;
      copier.Copy(p, read_step, stage, stage + C::kRows * kDepth);
      if (++read_step == steps) {
        read_step = 0;
        read_tile += stride;
      }
    }
    CopyAsyncCommit();
    read_stage = read_stage + 1 == C::kStages ? 0 : read_stage + 1;
  };
  for (int i = 0; i < C::kStages - 1; ++i) read_next();

  const int warp_row = threadIdx.x / kWarp / kWarpColumns;
  int stage = 0;
  for (int index = static_cast<int>(blockIdx.x); index < tiles; index += stride) {
    const Tile tile = FindTile<C>(p, starts, index, column_tiles);
    const int row_tiles = CeilDiv(max(0, tile.rows - warp_row * 16), 16 * kWarpRows);
    float sums[C::kRowTiles][C::kWarpTiles][4] = {};
    for (int step = 0; step < steps; ++step) {
      CopyAsyncWait<C::kStages - 2>();
      __syncthreads();  // the stage has arrived; the one before it is free
      read_next();
      const T* at = stages + stage * C::kStageElements;
      MultiplyStage<T, C>(at, at + C::kRows * kDepth, row_tiles, sums);
      stage = stage + 1 == C::kStages ? 0 : stage + 1;
    }
    StoreTile<T, C>(p, tile, sums);
  }
}

template <class C>
size_t SharedBytes(const GroupedParams& p) {
  return C::kStages * C::kStageElements * sizeof(uint16_t) + (p.groups + 1) * sizeof(int32_t);
}

template <class T, class C>
void LaunchTiles(const GroupedParams& p, CudaStream& stream) {
  const int64_t groups = p.rows < p.groups ? p.rows : p.groups;
  const int64_t most_tiles =
      (p.rows / C::kRows + groups) * CeilDiv(p.columns, int64_t{C::kColumns});
  const int64_t most_blocks = int64_t{C::kBlocks} * stream.device().multiprocessors;
  const LaunchShape shape{
      .grid = static_cast<unsigned>(most_tiles < most_blocks ? most_tiles : most_blocks),
      .block = kThreads,
      .shared_bytes = SharedBytes<C>(p)};
  AllowShared("grouped_gemm_tiles", &TilesKernel<T, C>, shape.shared_bytes);
  LaunchEarly<&TilesKernel<T, C>>("grouped_gemm_tiles", shape, stream, p);
}

// Wide tiles where groups have so many rows on average.
constexpr int64_t kRowsForWideTiles = 96;

template <class T, bool kSwiGlu>
void Tiles(const GroupedParams& p, CudaStream& stream) {
  using Narrow = Config<64, 128, 3, 3, kSwiGlu>;
  using Wide = Config<128, 128, 3, 2, kSwiGlu>;
  const auto most = static_cast<size_t>(stream.device().shared_bytes_per_block);
  const bool wide = p.rows >= kRowsForWideTiles * p.groups && SharedBytes<Wide>(p) <= most;
  wide ? LaunchTiles<T, Wide>(p, stream) : LaunchTiles<T, Narrow>(p, stream);
}

template <class T>
void TilesOf(const GroupedParams& p, CudaStream& stream) {
  p.swiglu ? Tiles<T, true>(p, stream) : Tiles<T, false>(p, stream);
}

}  // namespace

void GroupedManyRows(const GroupedParams& params, CudaStream& stream) {
  params.dtype == DType::kBF16 ? TilesOf<__nv_bfloat16>(params, stream)
                               : TilesOf<__half>(params, stream);
}

}  // namespace sluice::ops::cuda
