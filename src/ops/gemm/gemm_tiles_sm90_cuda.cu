#include "ops/common/cuda/wgmma.cuh"
#include "ops/gemm/gemm_tiles.cuh"

// The same by Hopper's products (ops/common/cuda/wgmma.cuh): a block's two warpgroups have 64 rows
// each. Two blocks share a multiprocessor, and one multiplies while the other waits for its copies
// or writes its tile.
namespace sluice::ops::cuda {
namespace {

constexpr int kGroupRows = 64;
constexpr int kStepBytes = 16 * static_cast<int>(sizeof(__nv_bfloat16));  // of k, along a row
constexpr int kAlignment = 1024;

struct Tile {
  static constexpr int kRows = 2 * kGroupRows;
  static constexpr int kColumns = 128;
  static constexpr int kStages = 3;
  static constexpr int kBlocksTogether = 2;
  static constexpr int kThreads = 256;
  static constexpr int kStageBytes = (kRows + kColumns) * kGemmRowBytes;
  static constexpr size_t kSharedBytes = kStages * kStageBytes + kAlignment;
};
using TileSums = float[Tile::kColumns / 8][4];

// Queues a stage's products of this warpgroup. `x` and `w` are where its rows begin.
__device__ __forceinline__ void MultiplyStage(uint32_t x, uint32_t w, TileSums& sums) {
  WarpgroupArrive();
#pragma unroll
  for (int k = 0; k < kGemmRowBytes; k += kStepBytes) {
    WarpgroupDot(sums, TileDescriptor(x + k, 0), TileDescriptor(w + k, 0), true);
  }
  WarpgroupCommit();
}

__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocksTogether)
    WarpgroupTilesKernel(const __grid_constant__ TileParams p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using T = __nv_bfloat16;
  extern __shared__ char memory[];
  LetNextStart();
  const BlockPart part = BlockPart::Of<Tile>(p);
  const int stages = min(static_cast<int>(p.part_stages), CeilDiv(part.depth, kGemmDepth));
  const uint32_t start = SharedAddress(memory);
  const uint32_t shared = start + (kAlignment - start % kAlignment) % kAlignment;
  using Copier = StageCopier<T, Tile>;
  const Copier copier(p.gemm, part, stages, shared);
  copier.Begin();

  const int group_row = static_cast<int>(threadIdx.x) / (4 * kWarp) * kGroupRows;
  const bool has_rows = part.first_row + group_row < p.gemm.rows;
  TileSums sums = {};
  int slot = 0;
  int free_slot = Tile::kStages - 1;
  for (int stage = 0; stage < stages; ++stage) {
    CopyAsyncWait<Tile::kStages - 2>();
    PublishToProducts();
    // The stage has arrived, and the one before it, whose place is next, is done with.
    __syncthreads();
    const uint32_t at = shared + slot * Copier::kStageBytes;
    if (has_rows) MultiplyStage(at + group_row * kGemmRowBytes, at + Copier::kXBytes, sums);
    copier.Copy(stage + Tile::kStages - 1, free_slot);
    WarpgroupWait<0>();
    free_slot = slot;
    slot = slot + 1 == Tile::kStages ? 0 : slot + 1;
  }
  HoldSums(sums);
  if (!has_rows) return;
  const int lane = threadIdx.x % kWarp;
  const int64_t row = part.first_row + group_row + threadIdx.x / kWarp % 4 * 16 + lane / 4;
#pragma unroll
  for (int n = 0; n < Tile::kColumns / 8; ++n) {
    const int64_t column = part.first_column + n * 8 + 2 * (lane % 4);
    StoreSums(p, part, row, column, sums[n][0], sums[n][1]);
    StoreSums(p, part, row + 8, column, sums[n][2], sums[n][3]);
  }
#endif
}

}  // namespace

bool HasGemmWarpgroups(const GemmParams& params, const CudaStream& stream) {
#if defined(SLUICE_CUDA_WARPGROUPS)
  // Fewer leave the second warpgroup idle, or the blocks too few.
  constexpr int64_t kFewestRows = 256;
  const CudaDeviceInfo& device = stream.device();
  return params.w_dtype == DType::kBF16 && params.rows >= kFewestRows &&
         device.compute_major == 9 && device.compute_minor == 0;
#else
  return false;
#endif
}

void GemmByWarpgroups(const GemmParams& gemm, Arena& arena, CudaStream& stream) {
  const Cut cut = CutInto<Tile>(gemm, stream);
  const Arena::Scope scope(arena);
  const TileParams params = ParamsOf(gemm, cut, arena);
  const LaunchShape shape{
      .grid = GridOf(gemm, cut), .block = Tile::kThreads, .shared_bytes = Tile::kSharedBytes};
  AllowShared("gemm_tiles", &WarpgroupTilesKernel, shape.shared_bytes);
  LaunchEarly<&WarpgroupTilesKernel>("gemm_tiles", shape, stream, params);
  if (params.splits > 1) SumSplits(params, stream);
}

}  // namespace sluice::ops::cuda
