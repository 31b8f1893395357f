#include <algorithm>

#include "ops/common/cuda/launch.cuh"
#include "ops/common/cuda/mma.cuh"
#include "ops/norm/norm_rows.cuh"
#include "ops/router/norm_router_kernels.h"
#include "ops/router/router_choice.cuh"

// NormRouter for few tokens. Each block norms all rows, multiplies them with the rows of eight
// experts, and the block that is done last chooses.
namespace sluice::ops::cuda {
namespace {

constexpr int kBlockExperts = 8;  // the N of an mma; tokens are its M
constexpr int kMostTokens = 8;    // of the sixteen
constexpr int kMostExperts = 256;
constexpr int kMostWarps = 32;     // of a block; they share k
constexpr int kLoad = 8;           // elements in 16 bytes
constexpr int kChunk = 4 * kLoad;  // k of a warp's load: 4 lanes a row
constexpr int kBlockSums = kMostTokens * kBlockExperts;
constexpr int kBankRow = 64;

// Elements between normed rows in shared memory: their pieces that an mma takes lie in different
// banks.
__host__ __device__ constexpr int RowStride(int width) {
  return CeilDiv(width, kBankRow) * kBankRow + kBankRow / 2;
}

// A block's shared memory: weights in cells of 16 bytes that one lane alone writes and reads, and
// the normed rows; then sums; in the last block logits and what RouteToken asks for.
struct SharedLayout {
  int cells;     // 16 bytes each
  int elements;  // of normed rows

  __host__ __device__ SharedLayout(int width, int tokens, int warps)
      : cells(CeilDiv(width, warps * kChunk) * warps * kWarp),
        elements(tokens * RowStride(width)) {}
  __host__ __device__ int Bytes() const { return cells * 16 + elements * 2; }
};

__device__ __forceinline__ int Warps() {
  return static_cast<int>(blockDim.y);
}
__device__ __forceinline__ int Thread() {
  return static_cast<int>(threadIdx.y) * kWarp + static_cast<int>(threadIdx.x);
}

__host__ __device__ constexpr int ChoiceFloats(int experts, int groups) {
  return 2 * experts + groups;
}

template <class T>
__device__ __forceinline__ void CopyWeights(const NormRouterParams& p, int4* cells) {
  const int width = static_cast<int>(p.width);
  const int expert =
      static_cast<int>(blockIdx.x) * kBlockExperts + static_cast<int>(threadIdx.x) / 4;
  const bool exists = expert < p.router.num_experts;
  const T* row = static_cast<const T*>(p.matrix) + (exists ? int64_t{expert} * width : 0);
  const int lane_k = static_cast<int>(threadIdx.x) % 4 * kLoad;
  for (int first = static_cast<int>(threadIdx.y) * kChunk; first < width;
       first += Warps() * kChunk) {
    const int k = first + lane_k;
    CopyAsync16(cells + threadIdx.y * kWarp + threadIdx.x, row + (k < width ? k : 0),
                exists && k < width);
    cells += Warps() * kWarp;
  }
  CopyAsyncCommit();
}

// This warp's share of k: logits of token lane / 4 and experts 2 (lane % 4) ..+1 of the block.
template <class T>
__device__ __forceinline__ void Multiply(const NormRouterParams& p, const int4* cells,
                                         const T* rows, float (&sums)[4]) {
  const int width = static_cast<int>(p.width);
  const int token = static_cast<int>(threadIdx.x) / 4;
  const int lane_k = static_cast<int>(threadIdx.x) % 4 * kLoad;
  const bool exists = token < p.router.tokens;
  const T* row = rows + (exists ? token * RowStride(width) : 0);
  for (int first = static_cast<int>(threadIdx.y) * kChunk; first < width;
       first += Warps() * kChunk) {
    const int k = first + lane_k;
    const int4 w = cells[threadIdx.y * kWarp + threadIdx.x];
    const int4 x = exists && k < width ? *reinterpret_cast<const int4*>(row + k) : int4{};
    Mma<T>(sums, {static_cast<uint32_t>(x.x), 0u, static_cast<uint32_t>(x.y), 0u},
           static_cast<uint32_t>(w.x), static_cast<uint32_t>(w.y));
    Mma<T>(sums, {static_cast<uint32_t>(x.z), 0u, static_cast<uint32_t>(x.w), 0u},
           static_cast<uint32_t>(w.z), static_cast<uint32_t>(w.w));
    cells += Warps() * kWarp;
  }
}

// Adds the warps' sums in their order. `shared` holds [warps][tokens][experts of the block].
__device__ __forceinline__ void StoreLogits(const NormRouterParams& p, const float (&sums)[4],
                                            float* shared, float* logits) {
  const int thread = Thread();
  reinterpret_cast<float2*>(shared)[thread] = {sums[0], sums[1]};
  __syncthreads();
  if (thread >= kBlockSums) return;
  float sum = 0.0f;
#pragma unroll 8
  for (int w = 0; w < Warps(); ++w) sum += shared[w * kBlockSums + thread];
  const int token = thread / kBlockExperts;
  const int expert = static_cast<int>(blockIdx.x) * kBlockExperts + thread % kBlockExperts;
  if (token < p.router.tokens && expert < p.router.num_experts) {
    logits[token * p.router.num_experts + expert] = sum;
  }
}

// Each block writes its part of h.
template <class T>
__device__ __forceinline__ void StoreRows(const NormRouterParams& p, const T* rows) {
  const int width = static_cast<int>(p.width);
  const int packs = width / kLoad;
  const int thread = Thread();
  const int count = static_cast<int>(p.router.tokens) * packs;
  const int threads = Warps() * kWarp;
  for (int i = static_cast<int>(blockIdx.x) * threads + thread; i < count;
       i += static_cast<int>(gridDim.x) * threads) {
    const int token = i / packs;
    const int k = (i - token * packs) * kLoad;
    *reinterpret_cast<int4*>(static_cast<T*>(p.h) + token * p.h_stride + k) =
        *reinterpret_cast<const int4*>(rows + token * RowStride(width) + k);
  }
}

// Whether the block is the last to come here; what the others wrote is then to be seen.
__device__ __forceinline__ bool IsLastBlock(int32_t* counter) {
  __shared__ bool is_last;
  __syncthreads();
  if (threadIdx.x == 0 && threadIdx.y == 0) {
    is_last = AddReleasing(counter, 1) == static_cast<int>(gridDim.x) - 1;
    if (is_last) *counter = 0;
  }
  __syncthreads();
  return is_last;
}

struct KernelParams {
  NormRouterParams call;
  float* logits;
  int32_t* counter;
};

template <class T, int kPerLane>
__global__ void __launch_bounds__(kMostWarps* kWarp) NormRouterKernel(const KernelParams params) {
  extern __shared__ __align__(16) int4 cells[];
  __shared__ float scratch[2 * kMostWarps];
  const NormRouterParams& p = params.call;
  const int tokens = static_cast<int>(p.router.tokens);
  LetNextStart();
  CopyWeights<T>(p, cells);
  const NormRowsParams norm{.kind = p.norm.kind,
                            .x = p.x,
                            .x_stride = p.x_stride,
                            .weight = p.norm_weight,
                            .eps = p.norm.eps,
                            .rows = tokens,
                            .width = static_cast<int>(p.width)};
  const RowNorm row_norm(norm);
  T* rows = reinterpret_cast<T*>(cells + SharedLayout(norm.width, tokens, Warps()).cells);
  WaitForEarlier();
  row_norm.Run(rows, RowStride(norm.width), scratch);
  float sums[4] = {};
  CopyAsyncWait<0>();
  Multiply<T>(p, cells, rows, sums);
  StoreRows<T>(p, rows);
  __syncthreads();  // the sums take the cells' place
  float* floats = reinterpret_cast<float*>(cells);
  StoreLogits(p, sums, floats, params.logits);
  if (!IsLastBlock(params.counter)) return;
  const int count = tokens * p.router.num_experts;
  for (int i = Thread(); i < count; i += Warps() * kWarp) floats[i] = __ldcg(params.logits + i);
  __syncthreads();
  if (threadIdx.y >= tokens) return;
  RouterParams router = p.router;
  router.logits = floats;
  router.logits_stride = router.num_experts;
  RouteToken(router, threadIdx.y, LaneLogits<kPerLane>(router, threadIdx.y),
             floats + count + threadIdx.y * (router.num_experts + router.num_groups));
}

// Half of the most warps where they hold the rows: the block then finds room beside the one before.
int WarpsOf(const NormRouterParams& p) {
  return NormRowsFit(p.router.tokens, p.width, kMostWarps / 2) ? kMostWarps / 2 : kMostWarps;
}

int SharedBytes(const NormRouterParams& p) {
  const auto tokens = static_cast<int>(p.router.tokens);
  const int sums = WarpsOf(p) * kBlockSums;
  const int choice = tokens * ChoiceFloats(p.router.num_experts, p.router.num_groups);
  return std::max(SharedLayout(static_cast<int>(p.width), tokens, WarpsOf(p)).Bytes(),
                  std::max(sums, choice) * static_cast<int>(sizeof(float)));
}

template <class T, int kPerLane>
void LaunchNormRouter(const KernelParams& params, CudaStream& stream) {
  constexpr auto kKernel = &NormRouterKernel<T, kPerLane>;
  const LaunchShape shape{
      .grid = static_cast<unsigned>(CeilDiv(params.call.router.num_experts, kBlockExperts)),
      .block = dim3(kWarp, static_cast<unsigned>(WarpsOf(params.call))),
      .shared_bytes = static_cast<size_t>(SharedBytes(params.call))};
  AllowShared("norm_router", kKernel, shape.shared_bytes);
  LaunchEarly<kKernel>("norm_router", shape, stream, params);
}

template <class T>
void LaunchOf(const KernelParams& params, CudaStream& stream) {
  const int experts = params.call.router.num_experts;
  if (experts <= 2 * kWarp) return LaunchNormRouter<T, 2>(params, stream);
  if (experts <= 4 * kWarp) return LaunchNormRouter<T, 4>(params, stream);
  static_assert(kMostExperts <= 8 * kWarp);
  LaunchNormRouter<T, 8>(params, stream);
}

}  // namespace

bool FusesNormRouter(const NormRouterParams& p, const CudaDeviceInfo& device) {
  constexpr int kBytes = 16;
  const auto aligned = [](const void* pointer) { return IsMultipleOf(pointer, kBytes); };
  return p.dtype != DType::kF32 && p.router.tokens > 0 && p.router.tokens <= kMostTokens &&
         p.router.num_experts <= kMostExperts && p.width % kLoad == 0 &&
         NormRowsFit(p.router.tokens, p.width, kMostWarps) && p.x_stride % 4 == 0 &&
         p.h_stride % kLoad == 0 && aligned(p.x) && aligned(p.norm_weight) && aligned(p.matrix) &&
         aligned(p.h) && SharedBytes(p) <= device.shared_bytes_per_block;
}

void NormRouter(const NormRouterParams& params, float* logits, CudaStream& stream) {
  const KernelParams kernel{.call = params, .logits = logits, .counter = stream.counters()};
  params.dtype == DType::kBF16 ? LaunchOf<__nv_bfloat16>(kernel, stream)
                               : LaunchOf<__half>(kernel, stream);
}

}  // namespace sluice::ops::cuda
