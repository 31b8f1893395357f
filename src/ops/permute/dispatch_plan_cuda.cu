#include "ops/common/cuda/launch.cuh"
#include "ops/common/cuda/math.cuh"
#include "ops/permute/dispatch_plan_kernels.h"

namespace sluice::ops::cuda {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kPlanThreads = 1024;
constexpr int kPlanWarps = kPlanThreads / kWarp;
// Warps that sort have a counter for each expert in shared memory.
constexpr int kDefaultSharedBytes = 48 * 1024;
constexpr int kCombineThreads = 128;

// A warp's share of the ids: [begin, end), begin a multiple of the warp's width.
struct Segment {
  int64_t begin;
  int64_t end;
};

__device__ Segment SegmentOf(int64_t rows, int warp, int warps) {
  const int64_t length = CeilDiv(CeilDiv(rows, int64_t{kWarp}), int64_t{warps}) * kWarp;
  const int64_t begin = warp * length;
  const int64_t end = begin + length;
  return {begin < rows ? begin : rows, end < rows ? end : rows};
}

// The expert of id i; one that does not exist becomes the nearest that does.
__device__ int ExpertOf(const DispatchPlanParams& p, int64_t i) {
  const int id = p.ids[i];
  return id < 0 ? 0 : (id < p.num_experts ? id : p.num_experts - 1);
}

// Walks a warp's segment in order. visit(i, first, rank, count): for each id the place where its
// expert's counter stood, how many lanes before it have the same expert, and how many have it; the
// counter moves on by `count`.
template <class Visit>
__device__ void WalkSegment(const DispatchPlanParams& p, Segment segment, int32_t* counters,
                            const Visit& visit) {
  const int lane = threadIdx.x % kWarp;
  for (int64_t base = segment.begin; base < segment.end; base += kWarp) {
    const int64_t i = base + lane;
    const unsigned present = __ballot_sync(kAllLanes, i < segment.end);
    if (i < segment.end) {
      const int expert = ExpertOf(p, i);
      const unsigned same = __match_any_sync(present, expert);
      const int rank = __popc(same & ((1u << lane) - 1));
      const int first = counters[expert];
      __syncwarp(present);
      if (rank == 0) counters[expert] = first + __popc(same);
      visit(i, first + rank);
    }
    __syncwarp();
  }
}

// The sum of `value` over the threads before this one, all of which call it.
__device__ int BlockExclusiveSum(int value, int* warp_sums) {
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  int sum = value;
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const int before = __shfl_up_sync(kAllLanes, sum, offset);
    if (lane >= offset) sum += before;
  }
  if (lane == kWarp - 1) warp_sums[warp] = sum;
  __syncthreads();
  int before = 0;
  for (int w = 0; w < warp; ++w) before += warp_sums[w];
  return before + sum - value;
}

// A counting sort by one block. Each of `p.warps` warps counts its segment of the ids; a counter
// then becomes the row of the warp's first id of that expert, and a second walk hands out rows.
__global__ void __launch_bounds__(kPlanThreads) DispatchPlanKernel(const DispatchPlanParams p) {
  extern __shared__ int32_t counters[];  // [warps, num_experts]
  __shared__ int warp_sums[kPlanWarps];
  const int warp = threadIdx.x / kWarp;
  const Segment segment = SegmentOf(p.rows, warp, p.warps);
  for (int i = threadIdx.x; i < p.warps * p.num_experts; i += blockDim.x) counters[i] = 0;
  __syncthreads();
  int32_t* own = counters + warp * p.num_experts;
  if (warp < p.warps) WalkSegment(p, segment, own, [](int64_t, int) {});
  __syncthreads();

  int base = 0;
  for (int first = 0; first < p.num_experts; first += kPlanThreads) {
    const int expert = first + static_cast<int>(threadIdx.x);
    int count = 0;
    for (int w = 0; w < p.warps && expert < p.num_experts; ++w) {
      count += counters[w * p.num_experts + expert];
    }
    int row = base + BlockExclusiveSum(count, warp_sums);
    if (expert < p.num_experts) {
      p.offsets[expert] = row;
      for (int w = 0; w < p.warps; ++w) {
        int32_t& counter = counters[w * p.num_experts + expert];
        const int of_warp = counter;
        counter = row;
        row += of_warp;
      }
      if (expert == p.num_experts - 1) p.offsets[p.num_experts] = row;
    }
    for (const int sum : warp_sums) base += sum;
    __syncthreads();
  }
  if (warp >= p.warps) return;
  WalkSegment(p, segment, own, [&](int64_t i, int row) {
    p.row_of[i] = row;
    p.row_token[row] = static_cast<int32_t>(i / p.top_k);
  });
}

// Four columns of one token a thread, or one where rows are not aligned.
template <int kWidth>
__global__ void CombineKernel(const CombineAllParams p) {
  using Columns = Pack<float, kWidth>;
  const int64_t token = blockIdx.x;
  const int64_t column = (int64_t{blockIdx.y} * blockDim.x + threadIdx.x) * kWidth;
  if (column >= p.width) return;
  auto* out = reinterpret_cast<Columns*>(p.out + token * p.out_stride + column);
  Columns sum = *out;
#pragma unroll 8
  for (int j = 0; j < p.top_k; ++j) {
    const int64_t row = p.row_of[token * p.top_k + j];
    const float weight = p.weights[token * p.top_k + j];
    const Columns y = *reinterpret_cast<const Columns*>(p.y + row * p.y_stride + column);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) sum.values[i] += weight * y.values[i];
  }
  *out = sum;
}

template <int kWidth>
void LaunchCombine(const CombineAllParams& p, CudaStream& stream) {
  const int64_t columns = CeilDiv(p.width, int64_t{kWidth * kCombineThreads});
  const LaunchShape shape{
      .grid = dim3(static_cast<unsigned>(p.tokens), static_cast<unsigned>(columns)),
      .block = kCombineThreads};
  Launch("combine", &CombineKernel<kWidth>, shape, stream, p);
}

bool Aligned(const float* pointer, int64_t stride) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && stride % 4 == 0;
}

}  // namespace

void BuildDispatchPlan(DispatchPlanParams params, CudaStream& stream) {
  const int counter_bytes = params.num_experts * static_cast<int>(sizeof(int32_t));
  const int64_t useful = CeilDiv(params.rows, int64_t{kWarp});
  int64_t warps = kDefaultSharedBytes / 2 / counter_bytes;
  warps = warps < kPlanWarps ? warps : kPlanWarps;
  warps = warps < useful ? warps : useful;
  params.warps = static_cast<int>(warps > 1 ? warps : 1);
  const LaunchShape shape{.grid = 1,
                          .block = kPlanThreads,
                          .shared_bytes = static_cast<size_t>(params.warps * counter_bytes)};
  Launch("dispatch_plan", &DispatchPlanKernel, shape, stream, params);
}

void Combine(const CombineAllParams& params, CudaStream& stream) {
  const bool wide = params.width % 4 == 0 && Aligned(params.y, params.y_stride) &&
                    Aligned(params.out, params.out_stride);
  wide ? LaunchCombine<4>(params, stream) : LaunchCombine<1>(params, stream);
}

}  // namespace sluice::ops::cuda
