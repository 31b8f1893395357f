#include <algorithm>

#include "ops/common/cuda/launch.cuh"
#include "ops/router/router_choice.cuh"

namespace sluice::ops::cuda {
namespace {

// Of a block. Few tokens are spread over the device; of many a block counts as many as it can
// before it adds to what all count.
constexpr int kFewestWarps = 4;
constexpr int kMostWarps = 16;
constexpr int kWarpsPerMultiprocessor = 32;
constexpr int kDefaultSharedBytes = 48 * 1024;

// A warp a token; the next one's logits are on their way meanwhile. Shared memory: num_experts
// counters, then each warp's values of experts and groups where groups are limited.
template <int kPerLane>
__global__ void __launch_bounds__(kMostWarps* kWarp) RouterKernel(const RouterParams p) {
  extern __shared__ int32_t counters[];
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int warps = blockDim.x / kWarp;
  const bool counts = p.counts != nullptr;
  float* scratch =
      reinterpret_cast<float*>(counters + p.num_experts) + warp * (p.num_experts + p.num_groups);
  LetNextStart();
  for (int e = threadIdx.x; e < p.num_experts; e += blockDim.x) counters[e] = 0;
  WaitForEarlier();
  __syncthreads();
  const int64_t stride = int64_t{gridDim.x} * warps;
  int64_t token = int64_t{blockIdx.x} * warps + warp;
  if (token < p.tokens) {
    LaneLogits<kPerLane> logits(p, token);
    for (; token < p.tokens; token += stride) {
      const LaneLogits<kPerLane> next(p, token + stride < p.tokens ? token + stride : token);
      const Chosen chosen = RouteToken(p, token, logits, scratch);
      if (counts && lane < p.top_k) atomicAdd(&counters[chosen.ids[0]], 1);
      if (counts && lane + kWarp < p.top_k) atomicAdd(&counters[chosen.ids[1]], 1);
      logits = next;
    }
  }
  if (!counts) return;
  __syncthreads();
  for (int e = threadIdx.x; e < p.num_experts; e += blockDim.x) {
    if (counters[e] > 0) atomicAdd(&p.counts[e], counters[e]);
  }
}

template <int kPerLane>
void LaunchRouter(const RouterParams& p, CudaStream& stream) {
  const int counters = p.num_experts * static_cast<int>(sizeof(int32_t));
  const bool limited = p.num_groups != p.top_groups;
  const int scratch =
      limited ? (p.num_experts + p.num_groups) * static_cast<int>(sizeof(float)) : 1;
  const int64_t multiprocessors = stream.device().multiprocessors;
  const int64_t wanted =
      std::clamp<int64_t>(CeilDiv(p.tokens, multiprocessors), kFewestWarps, kMostWarps);
  const auto warps =
      static_cast<int>(std::min<int64_t>(wanted, (kDefaultSharedBytes - counters) / scratch));
  const int64_t most_blocks = multiprocessors * kWarpsPerMultiprocessor / warps;
  const int64_t blocks = std::clamp<int64_t>(CeilDiv(p.tokens, int64_t{warps}), 1, most_blocks);
  const LaunchShape shape{.grid = static_cast<unsigned>(blocks),
                          .block = static_cast<unsigned>(warps * kWarp),
                          .shared_bytes = static_cast<size_t>(counters + warps * scratch)};
  LaunchEarly<&RouterKernel<kPerLane>>("router", shape, stream, p);
}

}  // namespace

void Router(const RouterParams& params, CudaStream& stream) {
  if (params.num_experts <= 2 * kWarp) return LaunchRouter<2>(params, stream);
  if (params.num_experts <= 4 * kWarp) return LaunchRouter<4>(params, stream);
  if (params.num_experts <= 8 * kWarp) return LaunchRouter<8>(params, stream);
  static_assert(kMaxRouterExperts <= 32 * kWarp);
  LaunchRouter<32>(params, stream);
}

}  // namespace sluice::ops::cuda
