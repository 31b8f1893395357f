#include "ops/common/cuda/wgmma.cuh"
#include "ops/grouped_gemm/grouped_gemm_tiles.cuh"

// The same by Hopper's products (ops/common/cuda/wgmma.cuh): a block's two warpgroups have 64 rows
// each. Two blocks share a multiprocessor, and one multiplies while the other waits for its copies
// or writes its tile.
namespace sluice::ops::cuda {
namespace {

constexpr int kGroupRows = 64;
constexpr int kRowBytes = kTileDepth * static_cast<int>(sizeof(__nv_bfloat16));
constexpr int kStepBytes = 16 * static_cast<int>(sizeof(__nv_bfloat16));  // of k, along a row
constexpr int kAlignment = 1024;

template <bool kGlu>
struct Config {
  static constexpr int kRows = 2 * kGroupRows;
  static constexpr int kMatrixRows = 128;
  static constexpr int kStages = 3;
  static constexpr int kBlocks = 2;
  static constexpr bool kSwiGlu = kGlu;
  static constexpr int kColumns = kGlu ? kMatrixRows / 2 : kMatrixRows;
  static constexpr int kPartRows = kMatrixRows;
  static constexpr int kPartColumns = kColumns;
  static constexpr int kStageElements = (kRows + kMatrixRows) * kTileDepth;
};
using TileSums = float[Config<false>::kMatrixRows / 8][4];

// Queues a stage's products of this warpgroup. `x` and `matrix` are where its rows begin.
__device__ __forceinline__ void MultiplyStage(uint32_t x, uint32_t matrix, TileSums& sums) {
  WarpgroupArrive();
#pragma unroll
  for (int k = 0; k < kRowBytes; k += kStepBytes) {
    WarpgroupDot(sums, TileDescriptor(x + k, 0), TileDescriptor(matrix + k, 0), true);
  }
  WarpgroupCommit();
}

// Whether two columns of out can be written at once wherever a tile has both.
template <class T>
__device__ __forceinline__ bool StoresPairs(const GroupedParams& p) {
  const int bytes = p.out_dtype == DType::kF32 ? sizeof(float2) : 2 * sizeof(T);
  return p.columns % 2 == 0 && p.out_stride % 2 == 0 &&
         reinterpret_cast<uintptr_t>(p.out) % bytes == 0;
}

template <class C>
__device__ __forceinline__ void StoreTile(const GroupedParams& p, const Tile& tile, int first_row,
                                          const TileSums& sums) {
  using T = __nv_bfloat16;
  constexpr int kTiles = C::kColumns / 8;
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp % 4;
  const bool pairs = StoresPairs<T>(p);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int in_tile = first_row + warp * 16 + half * 8 + lane / 4;
    if (in_tile >= tile.rows) continue;
    const int64_t row = tile.begin + in_tile;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      const int64_t column = tile.first_column + n * 8 + 2 * (lane % 4);
      float value[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const bool there = column + i < p.columns;
        value[i] = sums[n][half * 2 + i] + (there ? AddendAt(p, row, column + i) : 0.0f);
        if constexpr (C::kSwiGlu) {
          const float up = sums[n + kTiles][half * 2 + i] +
                           (there ? AddendAt(p, row, column + i + p.columns) : 0.0f);
          value[i] = SwiGlu(value[i], up);
        }
      }
      if (!pairs) {
        StorePair<T>(p, row, column, value[0], value[1]);
      } else if (column < p.columns) {
        const int64_t at = row * p.out_stride + column;
        if (p.out_dtype == DType::kF32) {
          *reinterpret_cast<float2*>(static_cast<float*>(p.out) + at) = {value[0], value[1]};
        } else {
          *reinterpret_cast<uint32_t*>(static_cast<T*>(p.out) + at) =
              PackPair<T>(value[0], value[1]);
        }
      }
    }
  }
}

template <class C>
__global__ void __launch_bounds__(kTileThreads, C::kBlocks)
    WarpgroupTilesKernel(const __grid_constant__ GroupedParams p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using T = __nv_bfloat16;
  extern __shared__ char memory[];
  char* aligned = memory + (kAlignment - SharedAddress(memory) % kAlignment) % kAlignment;
  T* const stages = reinterpret_cast<T*>(aligned);
  int32_t* const starts = reinterpret_cast<int32_t*>(stages + C::kStages * C::kStageElements);
  __shared__ int32_t warp_sums[kTileThreads / kWarp];
  LetNextStart();
  WaitForEarlier();
  CountTiles<C::kRows>(p, starts, warp_sums);

  StageReader<T, C> reader(p, 1, starts, stages);
  for (int i = 0; i < C::kStages - 1; ++i) reader.Next();

  const int first_row = static_cast<int>(threadIdx.x) / (4 * kWarp) * kGroupRows;
  constexpr uint32_t kStageBytes = C::kStageElements * sizeof(T);
  const uint32_t shared = SharedAddress(stages);
  const auto stride = static_cast<int>(gridDim.x);
  int stage = 0;
  for (int index = static_cast<int>(blockIdx.x); index < reader.tiles(); index += stride) {
    const Tile tile = reader.At(index);
    const bool has_rows = first_row < tile.rows;
    TileSums sums = {};
    for (int step = 0; step < reader.steps(); ++step) {
      CopyAsyncWait<C::kStages - 2>();
      PublishToProducts();
      __syncthreads();  // the stage has arrived; the one before it, whose place is next, is done
                        // with
      const uint32_t at = shared + stage * kStageBytes;
      if (has_rows) MultiplyStage(at + first_row * kRowBytes, at + C::kRows * kRowBytes, sums);
      reader.Next();
      WarpgroupWait<0>();
      stage = stage + 1 == C::kStages ? 0 : stage + 1;
    }
    HoldSums(sums);
    if (has_rows) StoreTile<C>(p, tile, first_row, sums);
  }
#endif
}

template <class C>
void LaunchWarpgroupTiles(const GroupedParams& p, CudaStream& stream) {
  const LaunchShape shape = TileShape<C>(p, TileSharedBytes<C>(p) + kAlignment, stream);
  AllowShared("grouped_gemm_tiles", &WarpgroupTilesKernel<C>, shape.shared_bytes);
  LaunchEarly<&WarpgroupTilesKernel<C>>("grouped_gemm_tiles", shape, stream, p);
}

}  // namespace

bool HasGroupedWarpgroups(const GroupedParams& params, const CudaStream& stream) {
#if defined(SLUICE_CUDA_WARPGROUPS)
  const CudaDeviceInfo& device = stream.device();
  return params.dtype == DType::kBF16 && device.compute_major == 9 && device.compute_minor == 0 &&
         TileSharedBytes<Config<true>>(params) + kAlignment <=
             static_cast<size_t>(device.shared_bytes_per_block);
#else
  return false;
#endif
}

void GroupedByWarpgroups(const GroupedParams& params, CudaStream& stream) {
  params.swiglu ? LaunchWarpgroupTiles<Config<true>>(params, stream)
                : LaunchWarpgroupTiles<Config<false>>(params, stream);
}

}  // namespace sluice::ops::cuda
