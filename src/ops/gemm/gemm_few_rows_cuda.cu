#include <algorithm>
#include <type_traits>

#include "ops/common/cuda/launch.cuh"
#include "ops/common/cuda/math.cuh"
#include "ops/common/cuda/mma.cuh"
#include "ops/gemm/gemm_cuda.h"
#include "ops/norm/norm_rows.cuh"

namespace sluice::ops::cuda {
namespace {

constexpr int kColumns = 16;  // rows of w, the M of an mma, that a block has
constexpr int kTokens = 8;    // rows of x, the N of an mma
constexpr int kLoad = 8;      // elements in 16 bytes
constexpr int kChunk = 32;    // elements of K that a warp's load covers: 4 lanes a row
constexpr int kChunks = 2;    // of a stage, which is then a whole line of each row
constexpr int kStage = kChunks * kChunk;
constexpr int kStages = 2;           // of a warp's weights, under way or being used
constexpr int kLoads = kChunks * 2;  // of a lane in a stage: two rows of w, 8 apart
constexpr int kMaxWarps = 16;        // a block's, which share K
constexpr int kFragment = 4;         // sums of an mma that a lane holds
// A warp's shared memory, in cells of 16 bytes that one lane alone writes and reads. 64 KB for the
// largest block: two fit where most decoding is done, and that of the next kernel finds room.
constexpr int kWarpCells = kStages * kLoads * kWarp;
constexpr size_t kWarpBytes = sizeof(uint4) * kWarpCells;
// The most that normed rows take: with the largest block's weights, what every architecture has.
constexpr size_t kMaxNormedBytes = 32 * 1024;

// Eight consecutive elements of x as they are loaded, and as an mma takes them.
template <class X>
struct Input {
  uint4 bits;
};
template <>
struct Input<float> {
  float4 low;
  float4 high;
};

template <class T>
__device__ __forceinline__ void Unpack(const Input<T>& input, uint32_t (&to)[4]) {
  to[0] = input.bits.x;
  to[1] = input.bits.y;
  to[2] = input.bits.z;
  to[3] = input.bits.w;
}
template <class T>
__device__ __forceinline__ void Unpack(const Input<float>& input, uint32_t (&to)[4]) {
  to[0] = PackPair<T>(input.low.x, input.low.y);
  to[1] = PackPair<T>(input.low.z, input.low.w);
  to[2] = PackPair<T>(input.high.x, input.high.y);
  to[3] = PackPair<T>(input.high.z, input.high.w);
}

struct FewRowsParams {
  GemmParams gemm;
  NormRowsParams norm;  // of kNormed inputs
  int normed_stride;    // elements between normed rows in shared memory
};

// Where a lane gets its part of x from: Start makes the first stages ready for it, Next a later
// one; Get gives the eight elements from `k` on of a row of tile t, in a chunk of the stage that
// is in `slot`. Rows of x that are not there are read as the last one.
//
// This one reads rows of f32 or T into registers, so many stages ahead as there are slots.
template <class X, class T, int kTiles>
class Inputs {
 public:
  __device__ __forceinline__ Inputs(const FewRowsParams& p, void* /*shared*/)
      : depth_(static_cast<int>(p.gemm.depth)) {
    const GemmParams& g = p.gemm;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const int64_t token = min(int64_t{t * kTokens} + threadIdx.x / 4, g.rows - 1);
      x_[t] = static_cast<const X*>(g.x) + blockIdx.y * g.x_head_stride + token * g.x_stride;
    }
  }
  __device__ __forceinline__ void Start(int k, int step) {
    WaitForEarlier();
#pragma unroll
    for (int slot = 0; slot < kStages; ++slot) Next(slot, k + slot * step);
  }
  __device__ __forceinline__ void Next(int slot, int k) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c, k += kChunk) {
      if (k >= depth_) continue;
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        loaded_[slot][c][t] = *reinterpret_cast<const Input<X>*>(x_[t] + k);
      }
    }
  }
  __device__ __forceinline__ void Get(int slot, int c, int t, int /*k*/, uint32_t (&to)[4]) const {
    Unpack<T>(loaded_[slot][c][t], to);
  }

 private:
  const X* x_[kTiles];
  int depth_;
  Input<X> loaded_[kStages][kChunks][kTiles];
};

// Rows that the block norms for itself, into shared memory.
struct Normed {};
template <class T>
class Inputs<Normed, T, 1> {
 public:
  __device__ __forceinline__ Inputs(const FewRowsParams& p, void* shared)
      : norm_(p.norm),
        rows_(static_cast<T*>(shared)),
        stride_(p.normed_stride),
        row_(rows_ + min(static_cast<int>(threadIdx.x) / 4, p.norm.rows - 1) * stride_) {}
  __device__ __forceinline__ void Start(int /*k*/, int /*step*/) {
    __shared__ float scratch[2 * kMaxWarps];
    WaitForEarlier();
    norm_.Run(rows_, stride_, scratch);
  }
  __device__ __forceinline__ void Next(int /*slot*/, int /*k*/) {}
  __device__ __forceinline__ void Get(int /*slot*/, int /*c*/, int /*t*/, int k,
                                      uint32_t (&to)[4]) const {
    Unpack<T>(*reinterpret_cast<const Input<T>*>(row_ + k), to);
  }

 private:
  RowNorm norm_;
  T* rows_;
  int stride_;
  const T* row_;
};

// Elements between normed rows: the eight rows' pieces that an mma takes lie in different banks.
int NormedStride(int64_t depth) {
  constexpr int64_t kBankRow = 64;
  return static_cast<int>(CeilDiv(depth, kBankRow) * kBankRow + kBankRow / 2);
}

// Columns of out that a block has: with SwiGLU half of its rows of w are gates, half are ups.
__host__ __device__ constexpr int BlockColumns(bool swiglu) {
  return swiglu ? kColumns / 2 : kColumns;
}

__device__ __forceinline__ int ThreadInBlock() {
  return static_cast<int>(threadIdx.y) * kWarp + static_cast<int>(threadIdx.x);
}

// An element of the block's part of out.
struct OutElement {
  int token;
  int n;  // column of the block
  int64_t column;
  int64_t at;  // place in out
  bool exists;
};

__device__ __forceinline__ OutElement ElementOf(const GemmParams& p, int number) {
  const int bits = p.swiglu ? 3 : 4;
  static_assert(BlockColumns(true) == 1 << 3 && BlockColumns(false) == 1 << 4);
  OutElement element{};
  element.token = number >> bits;
  element.n = number & ((1 << bits) - 1);
  element.column = (static_cast<int64_t>(blockIdx.x) << bits) + element.n;
  element.at = blockIdx.y * p.out_head_stride + element.token * p.out_stride + element.column;
  element.exists = element.token < p.rows && element.column < p.columns;
  return element;
}

// What sums are added to: the bias, and out where that is asked for.
__device__ __forceinline__ float BeforeSum(const GemmParams& p, const OutElement& element) {
  if (!element.exists || p.swiglu) return 0.0f;
  const float before = p.accumulate ? static_cast<const float*>(p.out)[element.at] : 0.0f;
  return p.bias == nullptr ? before : before + p.bias[element.column];
}

// One warp's share of K, every so many stages: sums[t] += w x^T for 16 rows of w and tokens
// 8 t ..+7. `cells` is the warp's part of shared memory.
//
// A lane copies 8 consecutive elements of two rows of w to cells of its own, where no other thread
// looks, so that nobody waits for anybody. It hands the first four and as many of x to one mma, and
// the last four to the next: within each chunk of 32 that visits K in another order than the
// instruction's own, the same for w and x, which is all that a sum of products asks.
//
// Rows that are not there, of w or x, are read as the last one; nobody keeps what comes of it.
// `started` is called when earlier kernels are done and the first inputs are under way.
template <class X, class T, int kTiles, class Started>
__device__ __forceinline__ void SumShare(const FewRowsParams& params, uint4* cells,
                                         void* input_shared, float (&sums)[kTiles][kFragment],
                                         Started started) {
  const GemmParams& p = params.gemm;
  const int64_t first_column = static_cast<int64_t>(blockIdx.x) * BlockColumns(p.swiglu);
  const int64_t head = blockIdx.y;
  const int depth = static_cast<int>(p.depth);
  const int lane_k = threadIdx.x % 4 * kLoad;
  const int first = threadIdx.y * kStage;
  const int step = blockDim.y * kStage;
  const T* w[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int64_t wanted = first_column + threadIdx.x / 4 + (p.swiglu ? 0 : i * 8);
    const int64_t column = min(wanted, p.columns - 1) + (p.swiglu ? i * p.columns : 0);
    w[i] = static_cast<const T*>(p.w) + (head * p.columns + column) * p.depth;
  }

  const auto cell = [&](int slot, int chunk, int row) -> uint4& {
    return cells[((slot * kChunks + chunk) * 2 + row) * kWarp + threadIdx.x];
  };
  // Copies the stage in which this lane begins at `k`.
  const auto copy_weights = [&](int slot, int k) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c, k += kChunk) {
      if (k >= depth) continue;
      CopyAsync16(&cell(slot, c, 0), w[0] + k);
      CopyAsync16(&cell(slot, c, 1), w[1] + k);
    }
    CopyAsyncCommit();  // an empty group too, so that the count of groups is that of stages
  };

#pragma unroll
  for (int slot = 0; slot < kStages; ++slot) copy_weights(slot, first + lane_k + slot * step);
  Inputs<X, T, kTiles> inputs(params, input_shared);
  inputs.Start(first + lane_k, step);
  started();
  // The warp's lanes stay together: an mma is of them all.
  for (int start = first; start < depth; start += kStages * step) {
#pragma unroll
    for (int slot = 0; slot < kStages; ++slot) {
      const int k = start + lane_k + slot * step;
      CopyAsyncWait<kStages - 1>();
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        const bool exists = k + c * kChunk < depth;
        const uint4 zero = {};
        const uint4 low = exists ? cell(slot, c, 0) : zero;
        const uint4 high = exists ? cell(slot, c, 1) : zero;
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          uint32_t input[4] = {};
          if (exists) inputs.Get(slot, c, t, k + c * kChunk, input);
          Mma<T>(sums[t], {low.x, high.x, low.y, high.y}, input[0], input[1]);
          Mma<T>(sums[t], {low.z, high.z, low.w, high.w}, input[2], input[3]);
        }
      }
      copy_weights(slot, k + kStages * step);
      inputs.Next(slot, k + kStages * step);
    }
  }
  CopyAsyncWait<0>();
}

// Adds up the warps' sums in their order and writes the block's columns of every row of x.
// Warp w's sums[t] stand behind each other at `cells` + w * kWarpCells. `before` is BeforeSum of
// this thread's first element.
__device__ __forceinline__ void StoreSums(const GemmParams& p, const uint4* cells, float before) {
  // Of row n of the block's rows of w, on top of `sum`.
  const auto add_warps = [&](float sum, int token, int n) {
    // Where the mma left row n, column token % 8 of tile token / 8.
    const int lane = n % 8 * 4 + token % kTokens / 2;
    const int at = (token / kTokens * kWarp + lane) * kFragment + n / 8 * 2 + token % 2;
    for (int warp = 0; warp < blockDim.y; ++warp) {
      sum += reinterpret_cast<const float*>(cells + warp * kWarpCells)[at];
    }
    return sum;
  };
  const auto bias_of = [&](int64_t column) { return p.bias == nullptr ? 0.0f : p.bias[column]; };
  const int threads = static_cast<int>(blockDim.y) * kWarp;
  const int count = static_cast<int>(p.rows) * BlockColumns(p.swiglu);
  for (int e = ThreadInBlock(); e < count; e += threads) {
    const OutElement element = ElementOf(p, e);
    if (!element.exists) continue;
    if (!p.swiglu) {
      if (e >= threads) before = BeforeSum(p, element);
      static_cast<float*>(p.out)[element.at] = add_warps(before, element.token, element.n);
      continue;
    }
    const float gate = add_warps(bias_of(element.column), element.token, element.n);
    const float up = add_warps(bias_of(p.columns + element.column), element.token, element.n + 8);
    StoreFloat(p.out, p.out_dtype, element.at, Silu(gate) * up);
  }
}

// Blocks of eight warps that a multiprocessor's registers are to hold: the more, the fewer inputs a
// lane has under way.
template <class X, class T, int kTiles>
constexpr int MinBlocks(int warps) {
  constexpr int kInputs = std::is_same_v<X, Normed> ? 1 : kTiles * sizeof(X) / sizeof(T);
  constexpr int kBlocks = kInputs == 1 ? 4 : kInputs == 2 ? 3 : 2;
  return warps == kMaxWarps ? 1 : kBlocks;
}

// A block has kColumns rows of w of one head; its kWarps warps or fewer share K and add up in their
// order.
template <class X, class T, int kTiles, int kWarps>
__global__ void __launch_bounds__(kWarps* kWarp, (MinBlocks<X, T, kTiles>(kWarps)))
    FewRowsKernel(const FewRowsParams p) {
  extern __shared__ __align__(128) uint4 cells[];
  static_assert(kTiles <= kStages * kLoads);  // sums are left where weights were
  LetNextStart();
  float sums[kTiles][kFragment] = {};
  uint4* own = cells + threadIdx.y * kWarpCells;
  float before = 0.0f;
  SumShare<X, T>(p, own, cells + blockDim.y * kWarpCells, sums,
                 [&] { before = BeforeSum(p.gemm, ElementOf(p.gemm, ThreadInBlock())); });
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    own[t * kWarp + threadIdx.x] =
        make_uint4(__float_as_uint(sums[t][0]), __float_as_uint(sums[t][1]),
                   __float_as_uint(sums[t][2]), __float_as_uint(sums[t][3]));
  }
  __syncthreads();
  StoreSums(p.gemm, cells, before);
}

int64_t Blocks(const GemmParams& p) {
  return CeilDiv(p.columns, int64_t{BlockColumns(p.swiglu)}) * p.heads;
}

// Of a block. Where there are few blocks, more warps keep as much under way.
int MostWarps(const GemmParams& p, const CudaStream& stream) {
  return Blocks(p) < 2 * stream.device().multiprocessors ? kMaxWarps : kMaxWarps / 2;
}

// Each has a stage of K, while there are as many.
int64_t WarpsOf(const GemmParams& p, int most) {
  return std::clamp<int64_t>(CeilDiv(p.depth, int64_t{kStage}), 1, most);
}

template <class X, class T, int kTiles, int kWarps>
void LaunchFewRows(const FewRowsParams& params, size_t input_bytes, CudaStream& stream) {
  constexpr auto kKernel = &FewRowsKernel<X, T, kTiles, kWarps>;
  const GemmParams& g = params.gemm;
  const int64_t warps = WarpsOf(g, kWarps);
  const LaunchShape shape{
      .grid = dim3(static_cast<unsigned>(CeilDiv(g.columns, int64_t{BlockColumns(g.swiglu)})),
                   static_cast<unsigned>(g.heads)),
      .block = dim3(kWarp, static_cast<unsigned>(warps)),
      .shared_bytes = kWarpBytes * warps + input_bytes};
  AllowShared("gemm_few_rows", kKernel,
              kWarpBytes * kWarps + (std::is_same_v<X, Normed> ? kMaxNormedBytes : 0));
  LaunchEarly<kKernel>("gemm_few_rows", shape, stream, params);
}

template <class X, class T, int kTiles>
void ForBlocks(const FewRowsParams& params, size_t input_bytes, CudaStream& stream) {
  if (MostWarps(params.gemm, stream) == kMaxWarps) {
    LaunchFewRows<X, T, kTiles, kMaxWarps>(params, input_bytes, stream);
  } else {
    LaunchFewRows<X, T, kTiles, kMaxWarps / 2>(params, input_bytes, stream);
  }
}

template <class X, class T>
void ForRows(const FewRowsParams& params, CudaStream& stream) {
  if (params.gemm.rows <= kTokens) {
    ForBlocks<X, T, 1>(params, 0, stream);
  } else {
    ForBlocks<X, T, 2>(params, 0, stream);
  }
}

template <class T>
void ForInput(const FewRowsParams& params, CudaStream& stream) {
  if (params.gemm.x_dtype == DType::kF32) {
    ForRows<float, T>(params, stream);
  } else {
    ForRows<T, T>(params, stream);
  }
}

size_t NormedBytes(const GemmParams& gemm) {
  return static_cast<size_t>(gemm.rows) * NormedStride(gemm.depth) * SizeOf(gemm.w_dtype);
}

}  // namespace

void GemmFewRows(const GemmParams& params, CudaStream& stream) {
  const FewRowsParams few{.gemm = params, .norm = {}, .normed_stride = 0};
  if (params.w_dtype == DType::kBF16) {
    ForInput<__nv_bfloat16>(few, stream);
  } else {
    ForInput<__half>(few, stream);
  }
}

bool FewRowsTakesNorm(const GemmParams& params, const CudaStream& stream) {
  // Norming in every block costs less than doing it beforehand where a block holds the rows, and
  // where there are not many blocks to do it one after the other.
  constexpr int64_t kMostBlocks = 16;  // on a multiprocessor
  return params.rows <= kTokens &&
         NormRowsFit(params.rows, params.depth, WarpsOf(params, MostWarps(params, stream))) &&
         NormedBytes(params) <= kMaxNormedBytes &&
         Blocks(params) <= kMostBlocks * stream.device().multiprocessors;
}

void NormGemmFewRows(const NormGemmParams& params, CudaStream& stream) {
  const GemmParams& g = params.gemm;
  const FewRowsParams few{.gemm = g,
                          .norm = {.kind = params.norm.kind,
                                   .x = static_cast<const float*>(g.x),
                                   .x_stride = g.x_stride,
                                   .weight = params.norm_weight,
                                   .eps = params.norm.eps,
                                   .rows = static_cast<int>(g.rows),
                                   .width = static_cast<int>(g.depth)},
                          .normed_stride = NormedStride(g.depth)};
  if (g.w_dtype == DType::kBF16) {
    ForBlocks<Normed, __nv_bfloat16, 1>(few, NormedBytes(g), stream);
  } else {
    ForBlocks<Normed, __half, 1>(few, NormedBytes(g), stream);
  }
}

}  // namespace sluice::ops::cuda
