#include "ops/common/cuda/launch.cuh"
#include "ops/router/router_choice.cuh"

namespace sluice::ops::cuda {
namespace {

// Of more tokens than one block routes.
constexpr int kWarpsOfMany = 4;
constexpr int kBlocksPerMultiprocessor = 8;
// One block for so many tokens: it counts without help, so that no launch need set counts to zero.
constexpr int64_t kOneBlockTokens = 8;
constexpr int kDefaultSharedBytes = 48 * 1024;

// A warp a token. Shared memory: num_experts counters, then each warp's values of experts and
// groups where groups are limited.
template <int kPerLane>
__global__ void __launch_bounds__(kOneBlockTokens* kWarp) RouterKernel(const RouterParams p) {
  extern __shared__ int32_t counters[];
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int warps = blockDim.x / kWarp;
  float* scratch =
      reinterpret_cast<float*>(counters + p.num_experts) + warp * (p.num_experts + p.num_groups);
  LetNextStart();
  for (int e = threadIdx.x; e < p.num_experts; e += blockDim.x) counters[e] = 0;
  WaitForEarlier();
  __syncthreads();
  for (int64_t token = int64_t{blockIdx.x} * warps + warp; token < p.tokens;
       token += int64_t{gridDim.x} * warps) {
    const Chosen chosen = RouteToken<kPerLane>(p, token, scratch);
    if (lane < p.top_k) atomicAdd(&counters[chosen.ids[0]], 1);
    if (lane + kWarp < p.top_k) atomicAdd(&counters[chosen.ids[1]], 1);
  }
  if (p.counts == nullptr) return;
  __syncthreads();
  for (int e = threadIdx.x; e < p.num_experts; e += blockDim.x) {
    if (gridDim.x == 1) {
      p.counts[e] = counters[e];
    } else if (counters[e] > 0) {
      atomicAdd(&p.counts[e], counters[e]);
    }
  }
}

template <int kPerLane>
void LaunchRouter(const RouterParams& p, CudaStream& stream) {
  const int counters = p.num_experts * static_cast<int>(sizeof(int32_t));
  const bool limited = p.num_groups != p.top_groups;
  const int scratch =
      limited ? (p.num_experts + p.num_groups) * static_cast<int>(sizeof(float)) : 1;
  const int most_warps = (kDefaultSharedBytes - counters) / scratch;
  const bool one_block = p.tokens <= kOneBlockTokens;
  const int64_t wanted = one_block ? (p.tokens < 1 ? 1 : p.tokens) : kWarpsOfMany;
  const int warps = static_cast<int>(wanted < most_warps ? wanted : most_warps);
  const int64_t most_blocks = kBlocksPerMultiprocessor * stream.device().multiprocessors;
  const int64_t blocks = CeilDiv(p.tokens, int64_t{warps});
  const LaunchShape shape{
      .grid = one_block ? 1 : static_cast<unsigned>(blocks < most_blocks ? blocks : most_blocks),
      .block = static_cast<unsigned>(warps * kWarp),
      .shared_bytes = static_cast<size_t>(counters + warps * scratch)};
  LaunchEarly<&RouterKernel<kPerLane>>("router", shape, stream, p);
}

}  // namespace

void Router(const RouterParams& params, CudaStream& stream) {
  if (params.counts != nullptr && params.tokens > kOneBlockTokens) {
    stream.Fill(params.counts, 0, params.num_experts * sizeof(int32_t));
  }
  if (params.num_experts <= 2 * kWarp) return LaunchRouter<2>(params, stream);
  if (params.num_experts <= 4 * kWarp) return LaunchRouter<4>(params, stream);
  if (params.num_experts <= 8 * kWarp) return LaunchRouter<8>(params, stream);
  static_assert(kMaxRouterExperts <= 32 * kWarp);
  LaunchRouter<32>(params, stream);
}

}  // namespace sluice::ops::cuda
