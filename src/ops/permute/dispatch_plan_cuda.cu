#include "ops/common/cuda/launch.cuh"
#include "ops/common/cuda/math.cuh"
#include "ops/permute/dispatch_plan_kernels.h"

namespace sluice::ops::cuda {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kMaxThreads = 1024;
constexpr int kMaxWarps = kMaxThreads / kWarp;
// Ids that a block sorts where there are more than one has time for.
constexpr int64_t kBlockIds = 1024;
// Warps that sort have a counter for each expert in shared memory.
constexpr int kCounterBytes = 24 * 1024;
constexpr int kCombineThreads = 128;

// Ids [begin, end).
struct Segment {
  int64_t begin;
  int64_t end;
};

__device__ Segment SegmentOfBlock(const DispatchPlanParams& p) {
  const int64_t length = CeilDiv(p.rows, int64_t{p.blocks});
  const int64_t begin = blockIdx.x * length;
  const int64_t end = begin + length;
  return {begin < p.rows ? begin : p.rows, end < p.rows ? end : p.rows};
}

// A warp's share: whole reads of the warp's width.
__device__ Segment SegmentOfWarp(Segment block, int warp, int warps) {
  const int64_t reads = CeilDiv(block.end - block.begin, int64_t{kWarp});
  const int64_t length = CeilDiv(reads, int64_t{warps}) * kWarp;
  const int64_t begin = block.begin + warp * length;
  const int64_t end = begin + length;
  return {begin < block.end ? begin : block.end, end < block.end ? end : block.end};
}

// The expert of id i; one that does not exist becomes the nearest that does.
__device__ int ExpertOf(const DispatchPlanParams& p, int64_t i) {
  const int id = p.ids[i];
  return id < 0 ? 0 : (id < p.num_experts ? id : p.num_experts - 1);
}

// The lanes of `present` whose expert is this lane's, by the bits of its number.
__device__ unsigned SameExpert(const DispatchPlanParams& p, unsigned present, int expert) {
  unsigned same = present;
  for (int bit = 1; bit < p.num_experts; bit *= 2) {
    const unsigned set = __ballot_sync(present, (expert & bit) != 0);
    same &= (expert & bit) != 0 ? set : ~set;
  }
  return same;
}

// Hands out rows to a warp's segment in order; counters[e] is the row of its next id of expert e.
__device__ void PlaceSegment(const DispatchPlanParams& p, Segment segment, int32_t* counters) {
  const int lane = threadIdx.x % kWarp;
  for (int64_t base = segment.begin; base < segment.end; base += kWarp) {
    const int64_t i = base + lane;
    const unsigned present = __ballot_sync(kAllLanes, i < segment.end);
    if (i < segment.end) {
      const int expert = ExpertOf(p, i);
      const unsigned same = SameExpert(p, present, expert);
      const int rank = __popc(same & ((1u << lane) - 1));
      const int row = counters[expert] + rank;
      __syncwarp(present);
      if (rank == 0) counters[expert] = row + __popc(same);
      p.row_of[i] = row;
      p.row_token[row] = static_cast<int32_t>(i / p.top_k);
    }
    __syncwarp();
  }
}

// The sum of `value` over the threads before this one, and over all: every thread calls it.
struct BlockSums {
  int before;
  int all;
};
__device__ BlockSums SumBefore(int value, int* warp_sums) {
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int warps = CeilDiv(blockDim.x, kWarp);
  int sum = value;
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const int before = __shfl_up_sync(kAllLanes, sum, offset);
    if (lane >= offset) sum += before;
  }
  if (lane == kWarp - 1) warp_sums[warp] = sum;
  __syncthreads();
  BlockSums sums{.before = sum - value, .all = 0};
  for (int w = 0; w < warps; ++w) {
    if (w < warp) sums.before += warp_sums[w];
    sums.all += warp_sums[w];
  }
  __syncthreads();
  return sums;
}

// How many ids of an expert there are: in blocks before this one, and in all.
struct Counts {
  int before;
  int all;
};
__device__ Counts CountsOf(const DispatchPlanParams& p, int expert, int of_block) {
  if (p.blocks == 1) return {0, of_block};
  Counts counts{0, 0};
#pragma unroll 8
  for (int b = 0; b < p.blocks; ++b) {
    const int count = p.block_counts[b * p.num_experts + expert];
    if (b < static_cast<int>(blockIdx.x)) counts.before += count;
    counts.all += count;
  }
  return counts;
}

// block_counts[b][e]: ids of expert e in block b's segment.
__global__ void __launch_bounds__(kMaxThreads) CountIdsKernel(const DispatchPlanParams p) {
  extern __shared__ int32_t counters[];  // [num_experts]
  LetNextStart();
  WaitForEarlier();
  for (int e = threadIdx.x; e < p.num_experts; e += blockDim.x) counters[e] = 0;
  __syncthreads();
  const Segment block = SegmentOfBlock(p);
  for (int64_t i = block.begin + threadIdx.x; i < block.end; i += blockDim.x) {
    atomicAdd(&counters[ExpertOf(p, i)], 1);
  }
  __syncthreads();
  for (int e = threadIdx.x; e < p.num_experts; e += blockDim.x) {
    p.block_counts[int64_t{blockIdx.x} * p.num_experts + e] = counters[e];
  }
}

// A counting sort. Each of `p.warps` warps counts its segment of the block's ids; a counter then
// becomes the row of the warp's first id of that expert, and a second walk hands out rows.
__global__ void __launch_bounds__(kMaxThreads) DispatchPlanKernel(const DispatchPlanParams p) {
  extern __shared__ int32_t counters[];  // [warps, num_experts]
  __shared__ int warp_sums[kMaxWarps];
  LetNextStart();
  WaitForEarlier();
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const Segment segment = SegmentOfWarp(SegmentOfBlock(p), warp, p.warps);
  int32_t* own = counters + warp * p.num_experts;
  for (int i = threadIdx.x; i < p.warps * p.num_experts; i += blockDim.x) counters[i] = 0;
  __syncthreads();
  if (warp < p.warps) {
    for (int64_t i = segment.begin + lane; i < segment.end; i += kWarp) {
      atomicAdd(&own[ExpertOf(p, i)], 1);
    }
  }
  __syncthreads();

  int base = 0;
  for (int first = 0; first < p.num_experts; first += blockDim.x) {
    const int expert = first + static_cast<int>(threadIdx.x);
    const bool there = expert < p.num_experts;
    int of_block = 0;
    for (int w = 0; w < p.warps && there; ++w) of_block += counters[w * p.num_experts + expert];
    const Counts counts = there ? CountsOf(p, expert, of_block) : Counts{0, 0};
    const BlockSums sums = SumBefore(counts.all, warp_sums);
    const int offset = base + sums.before;
    base += sums.all;
    if (there && blockIdx.x == 0) p.offsets[expert + 1] = offset + counts.all;
    int row = offset + counts.before;
    for (int w = 0; w < p.warps && there; ++w) {
      int32_t& counter = counters[w * p.num_experts + expert];
      const int of_warp = counter;
      counter = row;
      row += of_warp;
    }
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) p.offsets[0] = 0;
  __syncthreads();
  if (warp < p.warps) PlaceSegment(p, segment, own);
}

// Four columns of one token a thread, or one where rows are not aligned.
template <int kWidth>
__global__ void CombineKernel(const CombineAllParams p) {
  using Columns = Pack<float, kWidth>;
  LetNextStart();
  WaitForEarlier();
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
  LaunchEarly<&CombineKernel<kWidth>>("combine", shape, stream, p);
}

bool Aligned(const float* pointer, int64_t stride) {
  return IsMultipleOf(pointer, 16) && stride % 4 == 0;
}

}  // namespace

int DispatchPlanBlocks(int64_t rows) {
  return rows <= 2 * kBlockIds ? 1 : static_cast<int>(CeilDiv(rows, kBlockIds));
}

void BuildDispatchPlan(DispatchPlanParams params, CudaStream& stream) {
  const int counter_bytes = params.num_experts * static_cast<int>(sizeof(int32_t));
  const int64_t reads = CeilDiv(CeilDiv(params.rows, int64_t{params.blocks}), int64_t{kWarp});
  int64_t warps = kCounterBytes / counter_bytes;
  warps = warps < kMaxWarps ? warps : kMaxWarps;
  warps = warps < reads ? warps : reads;
  params.warps = static_cast<int>(warps > 1 ? warps : 1);
  // A thread for each expert, and one for each id that is sorted at a time.
  const int for_experts = CeilDiv(params.num_experts, kWarp);
  const int block_warps = for_experts > params.warps ? for_experts : params.warps;
  const LaunchShape shape{
      .grid = static_cast<unsigned>(params.blocks),
      .block = static_cast<unsigned>(kWarp * (block_warps < kMaxWarps ? block_warps : kMaxWarps)),
      .shared_bytes = static_cast<size_t>(params.warps * counter_bytes)};
  if (params.blocks > 1) {
    LaunchShape counting = shape;
    counting.shared_bytes = static_cast<size_t>(counter_bytes);
    LaunchEarly<&CountIdsKernel>("count_ids", counting, stream, params);
  }
  LaunchEarly<&DispatchPlanKernel>("dispatch_plan", shape, stream, params);
}

void Combine(const CombineAllParams& params, CudaStream& stream) {
  const bool wide = params.width % 4 == 0 && Aligned(params.y, params.y_stride) &&
                    Aligned(params.out, params.out_stride);
  wide ? LaunchCombine<4>(params, stream) : LaunchCombine<1>(params, stream);
}

}  // namespace sluice::ops::cuda
