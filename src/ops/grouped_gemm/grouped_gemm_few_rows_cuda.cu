#include "ops/common/cuda/launch.cuh"
#include "ops/common/cuda/mma.cuh"
#include "ops/grouped_gemm/grouped_gemm.cuh"

// GroupedGemm where groups have few rows: the time is that of reading the weights. The matrix's
// rows are the 16 rows of a tensor-core product and up to 8 rows of x its columns. Which k a lane's
// elements stand for is free as long as weights and x agree, so a lane reads 16 bytes of each
// straight into registers: 8 consecutive k are its elements of two products (MultiplyPieces).
namespace sluice::ops::cuda {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kPieces = 2;            // 16-byte reads of a row that a lane makes for a chunk
constexpr int kChunk = kPieces * 32;  // k that a warp takes at a time
static_assert(kChunk == kChunkOfK);
constexpr int kMaxWarps = 8;   // of a block: each takes a part of k
constexpr int kDepth = 2;      // chunks in flight
constexpr int kTileRows = 16;  // rows of a matrix in one product
constexpr int kRowsOfX = 8;    // rows of x in one product
// Products that share a read of the weights.
__host__ __device__ constexpr int MaxRowTiles(int tiles) {
  return tiles == 1 ? 1 : 2;
}
// Below so many blocks a multiprocessor, blocks are made smaller.
constexpr int64_t kEnoughBlocks = 6;

// The group that a block works for.
struct Work {
  int32_t slot;
  int32_t begin;  // rows of the group
  int32_t end;
};

// The group of index `active` among those that have rows and a slot; no rows where there is none.
// Each warp finds it by itself.
__device__ Work FindWork(const GroupedParams& p, int active) {
  const int lane = threadIdx.x % kWarp;
  int passed = 0;
  Work work{};
#pragma unroll 4
  for (int base = 0; base < p.groups; base += kWarp) {
    const int group = base + lane;
    Work mine{-1, 0, 0};
    if (group < p.groups) mine = {p.slots[group], p.offsets[group], p.offsets[group + 1]};
    const unsigned mask = __ballot_sync(kAllLanes, mine.slot >= 0 && mine.end > mine.begin);
    const int rank = __popc(mask & ((1u << lane) - 1));
    const bool found = (mask >> lane & 1) != 0 && passed + rank == active;
    const unsigned where = __ballot_sync(kAllLanes, found);
    if (where != 0) {
      const int source = __ffs(static_cast<int>(where)) - 1;
      work = {__shfl_sync(kAllLanes, mine.slot, source), __shfl_sync(kAllLanes, mine.begin, source),
              __shfl_sync(kAllLanes, mine.end, source)};
    }
    passed += __popc(mask);
  }
  return work;
}

template <class T>
__device__ __forceinline__ int4 ReadWeights(const T* from, bool valid) {
  return valid ? __ldcs(reinterpret_cast<const int4*>(from)) : int4{};
}

template <class T>
__device__ __forceinline__ int4 ReadX(const T* from, bool valid) {
  return valid ? __ldg(reinterpret_cast<const int4*>(from)) : int4{};
}

// A lane's part of a chunk of the weights: rows `group` and `group + 8` of each tile.
template <int kTiles>
struct WeightChunk {
  int4 rows[kTiles][2][kPieces];
};
template <int kRowTiles>
struct XChunk {
  int4 rows[kRowTiles][kPieces];
};

// Which rows of the matrix a block multiplies. For SwiGLU the lower half of a tile are gates and
// the upper half their ups, which one lane then holds both.
template <int kTiles, bool kSwiGlu>
struct MatrixRows {
  static constexpr int kColumns = kSwiGlu ? kTiles * kTileRows / 2 : kTiles * kTileRows;  // of out

  // The row of the matrix that is row `row` of the block's; the last one where there are no more.
  static __device__ __forceinline__ int64_t Of(const GroupedParams& p, int64_t first, int row) {
    const int64_t last = p.columns - 1;
    if constexpr (!kSwiGlu) {
      const int64_t column = first + row;
      return column < last ? column : last;
    }
    const int in_tile = row % kTileRows;
    const int64_t gate = first + row / kTileRows * (kTileRows / 2) + in_tile % (kTileRows / 2);
    return (gate < last ? gate : last) + (in_tile < kTileRows / 2 ? 0 : p.columns);
  }
};

template <class T, int kTiles, int kRowTiles>
__device__ __forceinline__ void Multiply(const WeightChunk<kTiles>& w, const XChunk<kRowTiles>& x,
                                         float (&sums)[kTiles][kRowTiles][4]) {
#pragma unroll
  for (int piece = 0; piece < kPieces; ++piece) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int row = 0; row < kRowTiles; ++row) {
        MultiplyPieces<T>(sums[tile][row], w.rows[tile][0][piece], w.rows[tile][1][piece],
                          x.rows[row][piece]);
      }
    }
  }
}

// A warp's share of the sums of the block's matrix rows with rows [begin, begin + count) of the
// call: chunks warp, warp + warps, ... of k.
template <class T, int kTiles, int kRowTiles, bool kSwiGlu>
__device__ void SumChunks(const GroupedParams& p, const T* matrix, int64_t first_column,
                          int32_t begin, int count, float (&sums)[kTiles][kRowTiles][4]) {
  const int group = threadIdx.x % kWarp / 4;
  const int64_t lane_k = threadIdx.x % 4 * kPackSize<T>;
  const int warp = threadIdx.x / kWarp;
  const int warps = blockDim.x / kWarp;
  const auto chunks = static_cast<int>(CeilDiv(p.depth, int64_t{kChunk}));

  const T* w_rows[kTiles][2];
#pragma unroll
  for (int i = 0; i < 2 * kTiles; ++i) {
    const int64_t row = MatrixRows<kTiles, kSwiGlu>::Of(p, first_column, i * 8 + group);
    w_rows[i / 2][i % 2] = matrix + row * p.depth + lane_k;
  }
  const auto read_weights = [&](WeightChunk<kTiles>& chunk, int index) {
#pragma unroll
    for (int i = 0; i < 2 * kTiles * kPieces; ++i) {
      const int64_t k = int64_t{index} * kChunk + i % kPieces * 32;
      chunk.rows[i / kPieces / 2][i / kPieces % 2][i % kPieces] =
          ReadWeights(w_rows[i / kPieces / 2][i / kPieces % 2] + k, k + lane_k < p.depth);
    }
  };
  // The weights are on their way while the rows of x are looked up.
  WeightChunk<kTiles> w[kDepth];
  XChunk<kRowTiles> x[kDepth];
#pragma unroll
  for (int d = 0; d < kDepth; ++d) read_weights(w[d], warp + d * warps);

  const T* x_rows[kRowTiles];
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
    const int row = i * kRowsOfX + group;
    x_rows[i] = row < count ? RowOfX<T>(p, begin + row) + lane_k : nullptr;
  }
  const auto read_x = [&](XChunk<kRowTiles>& chunk, int index) {
#pragma unroll
    for (int i = 0; i < kRowTiles * kPieces; ++i) {
      const int64_t k = int64_t{index} * kChunk + i % kPieces * 32;
      const T* row = x_rows[i / kPieces];
      chunk.rows[i / kPieces][i % kPieces] = ReadX(row + k, row != nullptr && k + lane_k < p.depth);
    }
  };
#pragma unroll
  for (int d = 0; d < kDepth; ++d) read_x(x[d], warp + d * warps);

  for (int base = warp; base < chunks; base += kDepth * warps) {
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      Multiply<T>(w[d], x[d], sums);  // zeros behind the last chunk
      const int next = base + (d + kDepth) * warps;
      read_weights(w[d], next);
      read_x(x[d], next);
    }
  }
}

// Adds the warps' shares in their order and writes rows [begin, begin + count). `shared` holds
// [warps][kRowTiles][kTiles * 16][8] sums.
template <class T, int kTiles, int kRowTiles, bool kSwiGlu>
__device__ void Finish(const GroupedParams& p, int64_t first_column, int32_t begin, int count,
                       const float (&sums)[kTiles][kRowTiles][4], float* shared) {
  constexpr int kRows = kTiles * kTileRows;
  constexpr int kSums = kRowTiles * kRows * kRowsOfX;
  using Rows = MatrixRows<kTiles, kSwiGlu>;
  const int group = threadIdx.x % kWarp / 4;
  const int pair = threadIdx.x % 4;
  float* own = shared + threadIdx.x / kWarp * kSums;
#pragma unroll
  for (int i = 0; i < kTiles * kRowTiles; ++i) {
    const int tile = i / kRowTiles;
    const int rows_of_x = i % kRowTiles;
    float* at = own + (rows_of_x * kRows + tile * kTileRows + group) * kRowsOfX + 2 * pair;
    const float(&c)[4] = sums[tile][rows_of_x];
    *reinterpret_cast<float2*>(at) = {c[0], c[1]};
    *reinterpret_cast<float2*>(at + 8 * kRowsOfX) = {c[2], c[3]};
  }
  __syncthreads();
  const int warps = blockDim.x / kWarp;
  const auto sum_of = [&](int row_of_x, int row) {
    float sum = 0.0f;
    const int at = (row_of_x / kRowsOfX * kRows + row) * kRowsOfX + row_of_x % kRowsOfX;
    for (int w = 0; w < warps; ++w) sum += shared[w * kSums + at];
    return sum;
  };
  for (int i = threadIdx.x; i < count * Rows::kColumns; i += blockDim.x) {
    const int row_of_x = i / Rows::kColumns;
    const int in_block = i % Rows::kColumns;
    const int64_t row = begin + row_of_x;
    const int64_t column = first_column + in_block;
    if (column >= p.columns) continue;
    if constexpr (kSwiGlu) {
      const int gate_row = in_block / 8 * kTileRows + in_block % 8;
      const float gate = sum_of(row_of_x, gate_row) + AddendAt(p, row, column);
      const float up = sum_of(row_of_x, gate_row + 8) + AddendAt(p, row, column + p.columns);
      StoreOut<T>(p, row, column, SwiGlu(gate, up));
    } else {
      StoreOut<T>(p, row, column, sum_of(row_of_x, in_block) + AddendAt(p, row, column));
    }
  }
  __syncthreads();
}

template <class T, int kTiles, int kRowTiles, bool kSwiGlu>
__device__ __forceinline__ void RunPass(const GroupedParams& p, const T* matrix,
                                        int64_t first_column, int32_t begin, int count,
                                        float* shared) {
  float sums[kTiles][kRowTiles][4] = {};
  SumChunks<T, kTiles, kRowTiles, kSwiGlu>(p, matrix, first_column, begin, count, sums);
  Finish<T, kTiles, kRowTiles, kSwiGlu>(p, first_column, begin, count, sums, shared);
}

// A block takes kTiles * 16 rows of the matrix of one group. Blocks of one group follow each other.
template <class T, int kTiles, bool kSwiGlu>
__global__ void __launch_bounds__(kMaxWarps* kWarp, kTiles == 1 ? 3 : 2)
    FewRowsKernel(const GroupedParams p) {
  extern __shared__ float shared[];
  LetNextStart();
  WaitForEarlier();
  constexpr int kColumns = MatrixRows<kTiles, kSwiGlu>::kColumns;
  constexpr int kRowTiles = MaxRowTiles(kTiles);
  const auto slices = static_cast<unsigned>(CeilDiv(p.columns, int64_t{kColumns}));
  const Work work = FindWork(p, static_cast<int>(blockIdx.x / slices));
  const int64_t first_column = int64_t{blockIdx.x % slices} * kColumns;
  const T* matrix = MatrixOf<T>(p, work.slot);
  int32_t begin = work.begin;
  for (; work.end - begin > kRowsOfX; begin += kRowTiles * kRowsOfX) {
    const int count = min(kRowTiles * kRowsOfX, work.end - begin);
    RunPass<T, kTiles, kRowTiles, kSwiGlu>(p, matrix, first_column, begin, count, shared);
  }
  if (begin < work.end) {
    RunPass<T, kTiles, 1, kSwiGlu>(p, matrix, first_column, begin, work.end - begin, shared);
  }
}

// Blocks where every row has a group of its own, as far as there are groups.
template <int kTiles, bool kSwiGlu>
int64_t MostBlocks(const GroupedParams& p) {
  return (p.rows < p.active_groups ? p.rows : p.active_groups) *
         CeilDiv(p.columns, int64_t{MatrixRows<kTiles, kSwiGlu>::kColumns});
}

template <class T, int kTiles, bool kSwiGlu>
void LaunchFewRows(const GroupedParams& p, CudaStream& stream) {
  const int warps = PartsOfK(p.depth);
  const int sums = warps * MaxRowTiles(kTiles) * kTiles * kTileRows * kRowsOfX;
  const LaunchShape shape{.grid = static_cast<unsigned>(MostBlocks<kTiles, kSwiGlu>(p)),
                          .block = static_cast<unsigned>(warps * kWarp),
                          .shared_bytes = sums * sizeof(float)};
  LaunchEarly<&FewRowsKernel<T, kTiles, kSwiGlu>>("grouped_gemm_few_rows", shape, stream, p);
}

template <class T, bool kSwiGlu>
void FewRows(const GroupedParams& p, CudaStream& stream) {
  MostBlocks<2, kSwiGlu>(p) < kEnoughBlocks* stream.device().multiprocessors
      ? LaunchFewRows<T, 1, kSwiGlu>(p, stream)
      : LaunchFewRows<T, 2, kSwiGlu>(p, stream);
}

template <class T>
void FewRowsOf(const GroupedParams& p, CudaStream& stream) {
  p.swiglu ? FewRows<T, true>(p, stream) : FewRows<T, false>(p, stream);
}

}  // namespace

void GroupedFewRows(const GroupedParams& params, CudaStream& stream) {
  params.dtype == DType::kBF16 ? FewRowsOf<__nv_bfloat16>(params, stream)
                               : FewRowsOf<__half>(params, stream);
}

}  // namespace sluice::ops::cuda
