#include "ops/grouped_gemm/grouped_gemm_tiles.cuh"

// GroupedGemm where groups have many rows: tiles of rows by columns on tensor cores. A block stays
// and takes every gridDim-th tile; its reads run ahead of the products over the border of tiles.
namespace sluice::ops::cuda {
namespace {

constexpr int kWarpRows = 2;     // warps over a tile's rows, 8 rows in turn
constexpr int kWarpColumns = 4;  // warps over its matrix rows, a part each

// A configuration. A wide tile reads the least from the caches for what it multiplies; a narrow one
// leaves room for more blocks, whose reads are then on their way together. One that adds up takes K
// in parts, for which a lane has sums twice.
template <int kRowsOfTile, int kMatrixRowsOfTile, int kStagesOfTile, int kBlocksOfTile, bool kGlu,
          bool kAddsUpParts>
struct Config {
  static constexpr int kRows = kRowsOfTile;
  static constexpr int kMatrixRows = kMatrixRowsOfTile;
  static constexpr int kStages = kStagesOfTile;
  static constexpr int kBlocks = kBlocksOfTile;  // a multiprocessor
  static constexpr bool kSwiGlu = kGlu;
  static constexpr bool kAddsUp = kAddsUpParts;
  static constexpr int kColumns = kGlu ? kMatrixRows / 2 : kMatrixRows;  // of out
  static constexpr int kRowTiles = kRows / 8 / kWarpRows;                // a warp's products
  static constexpr int kPartRows = kMatrixRows / kWarpColumns;           // a warp's matrix rows
  static constexpr int kMatrixTiles = kPartRows / 16;
  // Of a warp's matrix rows the first half are gates for SwiGLU, the other half their ups.
  static constexpr int kPartColumns = kGlu ? kPartRows / 2 : kPartRows;
  static constexpr int kStageElements = (kRows + kMatrixRows) * kTileDepth;
};

template <class C>
using Sums = float[C::kMatrixTiles][C::kRowTiles][4];

// Which of eight rows of an operand is number `index` of a product: in an order in which the eight
// lanes that read shared memory together, four pieces of two rows, find them in different banks.
__device__ __forceinline__ int RowOf(int index) {
  return index / 2 + index % 2 * 4;
}

// sums += a stage's products of the warp: tiles warp_row, warp_row + 2, ... of 8 rows, of which the
// first `row_tiles` have rows.
template <class T, class C>
__device__ void MultiplyStage(const T* x, const T* matrix, int row_tiles, Sums<C>& sums) {
  const int row = RowOf(threadIdx.x % kWarp / 4);
  const int warp_row = threadIdx.x / kWarp / kWarpColumns;
  const int first = threadIdx.x / kWarp % kWarpColumns * C::kPartRows + row;
  const auto load = [](const T* operand, int at, int piece) {
    return *reinterpret_cast<const int4*>(operand + SwizzledOffset(at, piece));
  };
#pragma unroll
  for (int k32 = 0; k32 < kTileDepth / 32; ++k32) {
    const int piece = k32 * 4 + static_cast<int>(threadIdx.x) % 4;
    int4 low[C::kMatrixTiles];
    int4 high[C::kMatrixTiles];
#pragma unroll
    for (int i = 0; i < C::kMatrixTiles; ++i) {
      low[i] = load(matrix, first + i * 16, piece);
      high[i] = load(matrix, first + i * 16 + 8, piece);
    }
#pragma unroll
    for (int m = 0; m < C::kRowTiles; ++m) {
      if (m >= row_tiles) continue;
      const int4 b = load(x, (m * kWarpRows + warp_row) * 8 + row, piece);
#pragma unroll
      for (int i = 0; i < C::kMatrixTiles; ++i) MultiplyPieces<T>(sums[i][m], low[i], high[i], b);
    }
  }
}

// totals += sums, which are zero then.
template <class C>
__device__ __forceinline__ void AddPart(Sums<C>& sums, Sums<C>& totals) {
#pragma unroll
  for (int i = 0; i < C::kMatrixTiles; ++i) {
#pragma unroll
    for (int m = 0; m < C::kRowTiles; ++m) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        totals[i][m][j] += sums[i][m][j];
        sums[i][m][j] = 0.0f;
      }
    }
  }
}

template <class T, class C>
__device__ void StoreTile(const GroupedParams& p, const Tile& tile, const Sums<C>& sums) {
  const int matrix_row = RowOf(threadIdx.x % kWarp / 4);
  const int warp_row = threadIdx.x / kWarp / kWarpColumns;
  const int warp_column = threadIdx.x / kWarp % kWarpColumns;
  constexpr int kTiles = C::kPartColumns / 16;
#pragma unroll
  for (int m = 0; m < C::kRowTiles; ++m) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int x_row = RowOf(static_cast<int>(threadIdx.x) % 4 * 2 + j % 2);
      const int in_tile = (m * kWarpRows + warp_row) * 8 + x_row;
      if (in_tile >= tile.rows) continue;
      const int64_t row = tile.begin + in_tile;
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        const int64_t column =
            tile.first_column + warp_column * C::kPartColumns + i * 16 + j / 2 * 8 + matrix_row;
        if (column >= p.columns) continue;
        float value = sums[i][m][j] + AddendAt(p, row, column);
        if constexpr (C::kSwiGlu) {
          const float up = sums[i + kTiles][m][j] + AddendAt(p, row, column + p.columns);
          value = SwiGlu(value, up);
        }
        StoreOut<T>(p, row, column, value);
      }
    }
  }
}

struct TilesParams {
  GroupedParams grouped;
  int parts;  // of K, for a configuration that adds up
};

template <class T, class C>
__global__ void __launch_bounds__(kTileThreads, C::kBlocks) TilesKernel(const TilesParams params) {
  const GroupedParams& p = params.grouped;
  const int parts = C::kAddsUp ? params.parts : 1;
  extern __shared__ __align__(128) std::byte shared[];
  T* const stages = reinterpret_cast<T*>(shared);
  int32_t* const starts = reinterpret_cast<int32_t*>(stages + C::kStages * C::kStageElements);
  __shared__ int32_t warp_sums[kTileThreads / kWarp];
  LetNextStart();
  WaitForEarlier();
  CountTiles<C::kRows>(p, starts, warp_sums);

  StageReader<T, C> reader(p, parts, starts, stages);
  for (int i = 0; i < C::kStages - 1; ++i) reader.Next();

  const int warp_row = threadIdx.x / kWarp / kWarpColumns;
  const auto stride = static_cast<int>(gridDim.x);
  int stage = 0;
  for (int index = static_cast<int>(blockIdx.x); index < reader.tiles(); index += stride) {
    const Tile tile = reader.At(index);
    const int row_tiles = CeilDiv(max(0, tile.rows - warp_row * 8), 8 * kWarpRows);
    Sums<C> sums = {};
    Sums<C> totals = {};
    for (int part = 0; part < parts; ++part) {
      for (int step = part; step < reader.steps(); step += parts) {
        CopyAsyncWait<C::kStages - 2>();
        __syncthreads();  // the stage has arrived; the one before it is free
        reader.Next();
        const T* at = stages + stage * C::kStageElements;
        MultiplyStage<T, C>(at, at + C::kRows * kTileDepth, row_tiles, sums);
        stage = stage + 1 == C::kStages ? 0 : stage + 1;
      }
      if constexpr (C::kAddsUp) AddPart<C>(sums, totals);
    }
    StoreTile<T, C>(p, tile, C::kAddsUp ? totals : sums);
  }
}

template <class T, class C>
void LaunchTiles(const GroupedParams& p, CudaStream& stream) {
  const LaunchShape shape = TileShape<C>(p, TileSharedBytes<C>(p), stream);
  AllowShared("grouped_gemm_tiles", &TilesKernel<T, C>, shape.shared_bytes);
  LaunchEarly<&TilesKernel<T, C>>("grouped_gemm_tiles", shape, stream,
                                  TilesParams{.grouped = p, .parts = PartsOfK(p.depth)});
}

// Wide tiles where groups have so many rows on average.
constexpr int64_t kRowsForWideTiles = 96;

template <class T, bool kSwiGlu>
void Tiles(const GroupedParams& p, CudaStream& stream) {
  using Narrow = Config<64, 128, 3, 3, kSwiGlu, false>;
  using Wide = Config<128, 128, 3, 2, kSwiGlu, false>;
  using InParts = Config<64, 128, 3, 2, kSwiGlu, true>;
  if (p.in_parts) return LaunchTiles<T, InParts>(p, stream);
  const auto most = static_cast<size_t>(stream.device().shared_bytes_per_block);
  const bool wide = p.rows >= kRowsForWideTiles * p.groups && TileSharedBytes<Wide>(p) <= most;
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
