#include "ops/common/cuda/launch.cuh"
#include "ops/common/cuda/math.cuh"
#include "ops/router/router_kernels.h"

namespace sluice::ops::cuda {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;
// Of a block: more candidates a lane take more registers.
constexpr int MaxWarps(int per_lane) {
  return per_lane <= 8 ? 32 : 8;
}
// Of more tokens than one block routes.
constexpr int kWarpsOfMany = 8;
constexpr int kBlocksPerMultiprocessor = 4;
// One block for so many tokens: it counts without help, so that no launch need set counts to zero.
constexpr int64_t kOneBlockTokens = 64;
constexpr int kDefaultSharedBytes = 48 * 1024;

// The order of values as an unsigned number: a NaN is the smallest value, both zeros are equal. 0
// stands for what cannot be chosen, below every value.
__device__ __forceinline__ uint32_t OrderOf(float value) {
  const float number = isnan(value) ? -INFINITY : value + 0.0f;
  const uint32_t bits = __float_as_uint(number);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// exp(x) for x in [-128, 0]: the steps of RouterSigmoid on the host, each rounded by itself.
__device__ double ExpOfNegative(double x) {
  constexpr double kInverseFactorials[] = {1.0 / 479001600,
                                           1.0 / 39916800,
                                           1.0 / 3628800,
                                           1.0 / 362880,
                                           1.0 / 40320,
                                           1.0 / 5040,
                                           1.0 / 720,
                                           1.0 / 120,
                                           1.0 / 24,
                                           1.0 / 6,
                                           1.0 / 2,
                                           1.0,
                                           1.0};
  constexpr double kRoundToInteger = 0x1.8p52;
  const double n =
      __dsub_rn(__dadd_rn(__dmul_rn(x, 0x1.71547652b82fep+0), kRoundToInteger), kRoundToInteger);
  const double r =
      __dsub_rn(__dsub_rn(x, __dmul_rn(n, 0x1.62e42feep-1)), __dmul_rn(n, 0x1.a39ef35793c76p-33));
  double sum = kInverseFactorials[0];
#pragma unroll
  for (int i = 1; i < 13; ++i) sum = __dadd_rn(__dmul_rn(sum, r), kInverseFactorials[i]);
  const double power = __longlong_as_double((1023 + static_cast<long long>(n)) << 52);
  return __dmul_rn(sum, power);
}

// RouterSigmoid's bits.
__device__ float SigmoidOf(float x) {
  if (isnan(x)) return x;
  const double e = ExpOfNegative(fmax(-128.0, -fabs(static_cast<double>(x))));
  return static_cast<float>(__ddiv_rn(x < 0.0f ? e : 1.0, __dadd_rn(1.0, e)));
}

// What one warp chooses among: lane l holds experts l, l + 32, ...
template <int kPerLane>
struct Candidates {
  float logits[kPerLane];
  uint32_t order[kPerLane];
};

// The sum of the two largest of a group's values. `first` lets lanes start at different banks.
__device__ float GroupScore(const float* values, int size, int first) {
  float best = -INFINITY;
  float second = -INFINITY;
  for (int i = 0; i < size; ++i) {
    const float raw = values[(i + first) % size];
    const float value = isnan(raw) ? -INFINITY : raw;
    second = fmaxf(second, fminf(best, value));
    best = fmaxf(best, value);
  }
  const float sum = best + second;
  return isnan(sum) ? -INFINITY : sum;
}

// Leaves only the experts of the best groups. `shared` holds num_experts + num_groups floats.
template <int kPerLane>
__device__ void KeepBestGroups(const RouterParams& p, const float (&values)[kPerLane],
                               Candidates<kPerLane>& candidates, float* shared) {
  const int lane = threadIdx.x % kWarp;
  const int size = p.num_experts / p.num_groups;
  float* scores = shared + p.num_experts;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    if (lane + i * kWarp < p.num_experts) shared[lane + i * kWarp] = values[i];
  }
  __syncwarp();
  for (int g = lane; g < p.num_groups; g += kWarp) {
    scores[g] = GroupScore(shared + g * size, size, lane);
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int group = (lane + i * kWarp) / size;
    if (group >= p.num_groups) continue;
    const float score = scores[group];
    int better = 0;
    for (int g = 0; g < p.num_groups; ++g) {
      better += scores[g] > score || (scores[g] == score && g < group) ? 1 : 0;
    }
    if (better >= p.top_groups) candidates.order[i] = 0;
  }
  __syncwarp();
}

template <int kPerLane>
__device__ Candidates<kPerLane> LoadCandidates(const RouterParams& p, int64_t token,
                                               float* shared) {
  const int lane = threadIdx.x % kWarp;
  const float* row = p.logits + token * p.logits_stride;
  Candidates<kPerLane> candidates;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int expert = lane + i * kWarp;
    candidates.logits[i] = expert < p.num_experts ? row[expert] : -INFINITY;
  }
  float values[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int expert = lane + i * kWarp;
    values[i] = candidates.logits[i];
    if (!p.by_logit && expert < p.num_experts) {
      values[i] = SigmoidOf(values[i]) + (p.bias == nullptr ? 0.0f : p.bias[expert]);
    }
    candidates.order[i] = expert < p.num_experts ? OrderOf(values[i]) : 0;
  }
  if (p.num_groups != p.top_groups) KeepBestGroups(p, values, candidates, shared);
  return candidates;
}

// The best candidate, the lowest of equal ones; it is a candidate no more. The same in every lane.
template <int kPerLane>
__device__ int TakeBest(Candidates<kPerLane>& candidates) {
  const int lane = threadIdx.x % kWarp;
  uint32_t best = candidates.order[0];
  int place = 0;
#pragma unroll
  for (int i = 1; i < kPerLane; ++i) {
    if (candidates.order[i] > best) {
      best = candidates.order[i];
      place = i;
    }
  }
  const uint32_t best_of_all = __reduce_max_sync(kAllLanes, best);
  const unsigned id = best == best_of_all ? place * kWarp + lane : UINT32_MAX;
  const unsigned winner = __reduce_min_sync(kAllLanes, id);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    if (i * kWarp + lane == static_cast<int>(winner)) candidates.order[i] = 0;
  }
  return static_cast<int>(winner);
}

// The scores of this lane's choices, 0 where it has none: choice `lane` and choice lane + 32.
struct Chosen {
  int ids[2];
  float scores[2];
};

template <int kPerLane>
__device__ void ScoreChosen(const RouterParams& p, const float* row,
                            const Candidates<kPerLane>& candidates, Chosen& chosen) {
  const int lane = threadIdx.x % kWarp;
  const float largest = row[__shfl_sync(kAllLanes, chosen.ids[0], 0)];
  float total = 0.0f;
  if (p.softmax) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (lane + i * kWarp < p.num_experts) total += expf(candidates.logits[i] - largest);
    }
    total = WarpSum(total);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    chosen.scores[half] = 0.0f;
    if (lane + half * kWarp >= p.top_k) continue;
    const float logit = row[chosen.ids[half]];
    chosen.scores[half] = p.softmax ? expf(logit - largest) / total : 1.0f / (1.0f + expf(-logit));
  }
}

__device__ float NormOf(const RouterParams& p, const Chosen& chosen) {
  if (p.topk_norm == 1.0f) return WarpSum(chosen.scores[0] + chosen.scores[1]);
  const int lane = threadIdx.x % kWarp;
  float sum = lane < p.top_k ? powf(chosen.scores[0], p.topk_norm) : 0.0f;
  if (lane + kWarp < p.top_k) sum += powf(chosen.scores[1], p.topk_norm);
  return powf(WarpSum(sum), 1.0f / p.topk_norm);
}

template <int kPerLane>
__device__ Chosen RouteToken(const RouterParams& p, int64_t token, float* shared) {
  const int lane = threadIdx.x % kWarp;
  Candidates<kPerLane> candidates = LoadCandidates<kPerLane>(p, token, shared);
  Chosen chosen{};
  for (int j = 0; j < p.top_k; ++j) {
    const int id = TakeBest(candidates);
    if (j == lane) chosen.ids[0] = id;
    if (j == lane + kWarp) chosen.ids[1] = id;
  }
  ScoreChosen(p, p.logits + token * p.logits_stride, candidates, chosen);
  const float norm = NormOf(p, chosen) + (p.softmax ? 0.0f : kSigmoidSumFloor);
  const float divisor = p.renormalize_topk ? norm : 1.0f;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int j = lane + half * kWarp;
    if (j >= p.top_k) continue;
    p.weights[token * p.weights_stride + j] = chosen.scores[half] / divisor * p.scale;
    p.ids[token * p.ids_stride + j] = chosen.ids[half];
  }
  return chosen;
}

// A warp a token. Shared memory: num_experts counters, then each warp's values of experts and
// groups where groups are limited.
template <int kPerLane>
__global__ void __launch_bounds__(MaxWarps(kPerLane) * kWarp) RouterKernel(const RouterParams p) {
  extern __shared__ int32_t counters[];
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int warps = blockDim.x / kWarp;
  float* scratch =
      reinterpret_cast<float*>(counters + p.num_experts) + warp * (p.num_experts + p.num_groups);
  for (int e = threadIdx.x; e < p.num_experts; e += blockDim.x) counters[e] = 0;
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
  const int64_t wanted =
      one_block ? (p.tokens < MaxWarps(kPerLane) ? p.tokens : MaxWarps(kPerLane)) : kWarpsOfMany;
  const int warps = static_cast<int>(wanted < most_warps ? wanted : most_warps);
  const int64_t most_blocks = kBlocksPerMultiprocessor * stream.device().multiprocessors;
  const int64_t blocks = CeilDiv(p.tokens, int64_t{warps});
  const LaunchShape shape{
      .grid = one_block ? 1 : static_cast<unsigned>(blocks < most_blocks ? blocks : most_blocks),
      .block = static_cast<unsigned>(warps * kWarp),
      .shared_bytes = static_cast<size_t>(counters + warps * scratch)};
  Launch("router", &RouterKernel<kPerLane>, shape, stream, p);
}

}  // namespace

void Router(const RouterParams& params, CudaStream& stream) {
  if (params.counts != nullptr && (params.tokens == 0 || params.tokens > kOneBlockTokens)) {
    stream.Fill(params.counts, 0, params.num_experts * sizeof(int32_t));
  }
  if (params.tokens == 0) return;
  if (params.num_experts <= 2 * kWarp) return LaunchRouter<2>(params, stream);
  if (params.num_experts <= 4 * kWarp) return LaunchRouter<4>(params, stream);
  if (params.num_experts <= 8 * kWarp) return LaunchRouter<8>(params, stream);
  static_assert(kMaxRouterExperts <= 32 * kWarp);
  LaunchRouter<32>(params, stream);
}

}  // namespace sluice::ops::cuda
