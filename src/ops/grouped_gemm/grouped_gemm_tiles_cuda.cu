#include "ops/grouped_gemm/grouped_gemm_tiles.cuh"

// GroupedGemm where groups have many rows: tiles of rows by columns on tensor cores. A block stays
// and takes every gridDim-th tile; its reads run ahead of the products over the border of tiles.
namespace sluice::ops::cuda {
namespace {

constexpr int kWarpRows = 2;     // warps over a tile's rows, 16 rows in turn
constexpr int kWarpColumns = 4;  // warps over its matrix rows, a part each

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
  static constexpr int kPartRows = kMatrixRows / kWarpColumns;           // a warp's matrix rows
  static constexpr int kWarpTiles = kPartRows / 8;
  // Of a warp's matrix rows the first half are gates for SwiGLU, the other half their ups.
  static constexpr int kPartColumns = kGlu ? kPartRows / 2 : kPartRows;
  static constexpr int kStageElements = (kRows + kMatrixRows) * kTileDepth;
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
  for (int k16 = 0; k16 < kTileDepth / 16; ++k16) {
    uint32_t b[C::kWarpTiles / 2][4];
#pragma unroll
    for (int n = 0; n < C::kWarpTiles / 2; ++n) {
      const int row = warp_column * C::kPartRows + n * 16 + lane / 16 * 8 + lane % 8;
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

template <class T, class C>
__device__ void StoreTile(const GroupedParams& p, const Tile& tile,
                          const float (&sums)[C::kRowTiles][C::kWarpTiles][4]) {
  const int group = threadIdx.x % kWarp / 4;
  const int pair = threadIdx.x % 4;
  const int warp_row = threadIdx.x / kWarp / kWarpColumns;
  const int warp_column = threadIdx.x / kWarp % kWarpColumns;
  constexpr int kTiles = C::kPartColumns / 8;
#pragma unroll
  for (int m = 0; m < C::kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int in_tile = (m * kWarpRows + warp_row) * 16 + half * 8 + group;
      if (in_tile >= tile.rows) continue;
      const int64_t row = tile.begin + in_tile;
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        const int64_t column = tile.first_column + warp_column * C::kPartColumns + n * 8 + 2 * pair;
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
__global__ void __launch_bounds__(kTileThreads, C::kBlocks) TilesKernel(const GroupedParams p) {
  extern __shared__ __align__(128) std::byte shared[];
  T* const stages = reinterpret_cast<T*>(shared);
  int32_t* const starts = reinterpret_cast<int32_t*>(stages + C::kStages * C::kStageElements);
  __shared__ int32_t warp_sums[kTileThreads / kWarp];
  LetNextStart();
  WaitForEarlier();
  CountTiles<C::kRows>(p, starts, warp_sums);

  StageReader<T, C> reader(p, starts, stages);
  for (int i = 0; i < C::kStages - 1; ++i) reader.Next();

  const int warp_row = threadIdx.x / kWarp / kWarpColumns;
  const auto stride = static_cast<int>(gridDim.x);
  int stage = 0;
  for (int index = static_cast<int>(blockIdx.x); index < reader.tiles(); index += stride) {
    const Tile tile = reader.At(index);
    const int row_tiles = CeilDiv(max(0, tile.rows - warp_row * 16), 16 * kWarpRows);
    float sums[C::kRowTiles][C::kWarpTiles][4] = {};
    for (int step = 0; step < reader.steps(); ++step) {
      CopyAsyncWait<C::kStages - 2>();
      __syncthreads();  // the stage has arrived; the one before it is free
      reader.Next();
      const T* at = stages + stage * C::kStageElements;
      MultiplyStage<T, C>(at, at + C::kRows * kTileDepth, row_tiles, sums);
      stage = stage + 1 == C::kStages ? 0 : stage + 1;
    }
    StoreTile<T, C>(p, tile, sums);
  }
}

template <class T, class C>
void LaunchTiles(const GroupedParams& p, CudaStream& stream) {
  const LaunchShape shape = TileShape<C>(p, TileSharedBytes<C>(p), stream);
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
