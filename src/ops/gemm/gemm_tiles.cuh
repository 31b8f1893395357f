#pragma once

#include <algorithm>

#include "ops/common/cuda/launch.cuh"
#include "ops/common/cuda/math.cuh"
#include "ops/common/cuda/mma.cuh"
#include "ops/gemm/gemm_cuda.h"

// What the kernels of GemmTiles share: copies of stages to shared memory, how a call is cut into
// tiles and parts of K, and what becomes of a tile's sums. A Tile says how large it is (kRows,
// kColumns) and how many of its blocks a multiprocessor has together (kBlocksTogether).
namespace sluice::ops::cuda {

inline constexpr int kGemmDepth = 64;  // elements of K in a stage: a row is 128 bytes
inline constexpr int kGemmPiece = 8;   // elements in 16 bytes
inline constexpr int kGemmPieces = kGemmDepth / kGemmPiece;  // a row's
inline constexpr int kGemmRowBytes = 2 * kGemmDepth;

struct TileParams {
  GemmParams gemm;
  int64_t splits;       // blocks that share K
  int64_t part_stages;  // stages of K in a part
  // [splits, heads, rows, columns] where SumSplits follows; else null: K is whole, or the blocks
  // that share it add up what they have.
  float* partial;
};

// What a thread copies of one operand's stages: the same 16-byte piece of kCount rows, kStep apart.
template <class T, int kRows, int kThreads>
class RowCopier {
 public:
  // `from` is the operand's element (first row, first k) of the block, which has `rows` rows or
  // more, `shared` the address of its first stage.
  __device__ RowCopier(const T* from, int64_t stride, int64_t rows, uint32_t shared)
      : from_(from + threadIdx.x / kGemmPieces * stride + threadIdx.x % kGemmPieces * kGemmPiece),
        step_(kStep * stride),
        rows_(static_cast<int>(min(rows, int64_t{kRows})) -
              static_cast<int>(threadIdx.x / kGemmPieces)),
        shared_(shared + 2 * SwizzledOffset(threadIdx.x / kGemmPieces, threadIdx.x % kGemmPieces)) {
  }

  // Starts the copies of the 64 elements from k on, where the block's K ends at `depth`, into a
  // slot that begins `slot_bytes` after the first. What is not there becomes zeros.
  __device__ __forceinline__ void Copy(int k, int depth, uint32_t slot_bytes) const {
    const int column = k + static_cast<int>(threadIdx.x) % kGemmPieces * kGemmPiece;
    const int rows = column < depth ? rows_ : 0;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const bool valid = i * kStep < rows;
      CopyAsync16(shared_ + slot_bytes + i * kStep * kGemmRowBytes, from_ + k + i * step_, valid);
    }
  }

 private:
  static_assert(kRows * kGemmPieces % kThreads == 0 && kThreads / kGemmPieces % 8 == 0);
  static constexpr int kStep = kThreads / kGemmPieces;
  static constexpr int kCount = kRows / kStep;
  const T* from_;
  int64_t step_;  // elements between its rows
  int rows_;      // from its first row on
  uint32_t shared_;
};

// Which tile of out a block makes, and from which part of K.
struct BlockPart {
  int64_t head;
  int64_t split;
  int64_t first_row;
  int64_t first_column;
  int64_t first_k;
  int depth;  // elements of K from first_k on

  template <class Tile>
  static __device__ BlockPart Of(const TileParams& p) {
    const int64_t split = blockIdx.z % p.splits;
    const int64_t first_k = split * p.part_stages * kGemmDepth;
    return {.head = blockIdx.z / p.splits,
            .split = split,
            .first_row = static_cast<int64_t>(blockIdx.x) * Tile::kRows,
            .first_column = static_cast<int64_t>(blockIdx.y) * Tile::kColumns,
            .first_k = first_k,
            .depth = static_cast<int>(p.gemm.depth - first_k)};
  }
};

// A block's copies of both operands: a stage of X [kRows, 64], then one of W [kColumns, 64].
template <class T, class Tile>
class StageCopier {
 public:
  static constexpr int kXBytes = Tile::kRows * kGemmRowBytes;
  static constexpr int kStageBytes = kXBytes + Tile::kColumns * kGemmRowBytes;

  // `stages` is how many of K the block multiplies, `shared` the address of the first one's place.
  __device__ StageCopier(const GemmParams& g, const BlockPart& part, int stages, uint32_t shared)
      : x_(static_cast<const T*>(g.x) + part.head * g.x_head_stride + part.first_row * g.x_stride +
               part.first_k,
           g.x_stride, g.rows - part.first_row, shared),
        w_(static_cast<const T*>(g.w) + (part.head * g.columns + part.first_column) * g.depth +
               part.first_k,
           g.depth, g.columns - part.first_column, shared + kXBytes),
        depth_(part.depth),
        stages_(stages) {}

  // Starts the first kStages - 1 stages. W's come before the kernel waits for earlier ones, whose
  // results are in X.
  __device__ __forceinline__ void Begin() const {
#pragma unroll
    for (int stage = 0; stage < Tile::kStages - 1; ++stage) {
      if (stage < stages_) w_.Copy(stage * kGemmDepth, depth_, stage * kStageBytes);
    }
    WaitForEarlier();
#pragma unroll
    for (int stage = 0; stage < Tile::kStages - 1; ++stage) {
      if (stage < stages_) x_.Copy(stage * kGemmDepth, depth_, stage * kStageBytes);
      CopyAsyncCommit();
    }
  }

  // Starts a later stage, into the place number `slot`. Past the last one an empty group of copies,
  // so that the count of groups is that of stages.
  __device__ __forceinline__ void Copy(int stage, int slot) const {
    if (stage < stages_) {
      x_.Copy(stage * kGemmDepth, depth_, slot * kStageBytes);
      w_.Copy(stage * kGemmDepth, depth_, slot * kStageBytes);
    }
    CopyAsyncCommit();
  }

 private:
  RowCopier<T, Tile::kRows, Tile::kThreads> x_;
  RowCopier<T, Tile::kColumns, Tile::kThreads> w_;
  int depth_;
  int stages_;
};

// Writes the sums of two neighbouring columns: to out with bias and what was there, or to their
// part of the scratch.
__device__ __forceinline__ void StoreSums(const TileParams& p, const BlockPart& part, int64_t row,
                                          int64_t column, float first, float second) {
  const GemmParams& g = p.gemm;
  if (row >= g.rows || column >= g.columns) return;
  const bool both = column + 1 < g.columns;
  float* out =
      p.partial == nullptr
          ? static_cast<float*>(g.out) + part.head * g.out_head_stride + row * g.out_stride + column
          : p.partial + ((part.split * g.heads + part.head) * g.rows + row) * g.columns + column;
  if (p.partial == nullptr && g.accumulate) {
    first += out[0];
    if (both) second += out[1];
  }
  if (p.partial == nullptr && g.bias != nullptr) {
    first += g.bias[column];
    if (both) second += g.bias[column + 1];
  }
  if (both && reinterpret_cast<uintptr_t>(out) % sizeof(float2) == 0) {
    *reinterpret_cast<float2*>(out) = make_float2(first, second);
    return;
  }
  out[0] = first;
  if (both) out[1] = second;
}

// How a tile's blocks fall out on a device.
struct Cut {
  int64_t row_blocks;
  int64_t column_blocks;
  int64_t splits;       // parts of K, so that the multiprocessors have something to do each
  int64_t part_stages;  // stages of K in a part
  double fill;          // share of the device that is busy, were all blocks to take as long
};

// Tiles of out, with K whole.
template <class Tile>
Cut CutRowsAndColumns(const GemmParams& gemm) {
  const int64_t stages = CeilDiv(gemm.depth, int64_t{kGemmDepth});
  return {.row_blocks = CeilDiv(gemm.rows, int64_t{Tile::kRows}),
          .column_blocks = CeilDiv(gemm.columns, int64_t{Tile::kColumns}),
          .splits = 1,
          .part_stages = stages,
          .fill = 0.0};
}

template <class Tile>
Cut CutInto(const GemmParams& gemm, const CudaStream& stream) {
  // More parts mean more partial sums to write and read, shorter ones more idle time at their ends.
  constexpr int64_t kMinStages = 4;
  constexpr int64_t kMaxSplits = kMostInCluster;
  Cut cut = CutRowsAndColumns<Tile>(gemm);
  const int64_t blocks = cut.row_blocks * cut.column_blocks * gemm.heads;
  const int64_t stages = cut.part_stages;
  const int64_t places = int64_t{Tile::kBlocksTogether} * stream.device().multiprocessors;
  const int64_t wanted = std::min(places / blocks, stages / kMinStages);
  cut.part_stages = CeilDiv(stages, std::clamp<int64_t>(wanted, 1, kMaxSplits));
  cut.splits = CeilDiv(stages, cut.part_stages);  // none is empty
  const int64_t waves = CeilDiv(blocks * cut.splits, places);
  cut.fill = static_cast<double>(blocks * cut.splits) / static_cast<double>(waves * places);
  return cut;
}

// A call as a kernel takes it.
inline TileParams ParamsOf(const GemmParams& gemm, const Cut& cut) {
  return {.gemm = gemm, .splits = cut.splits, .part_stages = cut.part_stages, .partial = nullptr};
}

// The same with partial sums where K is cut, in the arena's open scope.
inline TileParams ParamsOf(const GemmParams& gemm, const Cut& cut, Arena& arena) {
  TileParams params = ParamsOf(gemm, cut);
  if (cut.splits > 1) {
    params.partial = arena.Allocate(DType::kF32, {cut.splits, gemm.heads, gemm.rows, gemm.columns})
                         .data<float>();
  }
  return params;
}

inline dim3 GridOf(const GemmParams& gemm, const Cut& cut) {
  return dim3(static_cast<unsigned>(cut.row_blocks), static_cast<unsigned>(cut.column_blocks),
              static_cast<unsigned>(gemm.heads * cut.splits));
}

// Adds up the parts of K, where a call was cut into several, on top of what a tile's sums are added
// to.
void SumSplits(const TileParams& params, CudaStream& stream);

// The same by products of warpgroups: of bf16, on devices of compute capability 9.0.
bool HasGemmWarpgroups(const GemmParams& params, const CudaStream& stream);
void GemmByWarpgroups(const GemmParams& params, Arena& arena, CudaStream& stream);

}  // namespace sluice::ops::cuda
