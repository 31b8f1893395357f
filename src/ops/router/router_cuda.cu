#include "ops/common/cuda/launch.cuh"
#include "ops/common/cuda/math.cuh"
#include "ops/router/router_kernels.h"

namespace sluice::ops::cuda {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;
// Of more tokens than one block routes.
constexpr int kWarpsOfMany = 4;
constexpr int kBlocksPerMultiprocessor = 8;
// One block for so many tokens: it counts without help, so that no launch need set counts to zero.
constexpr int64_t kOneBlockTokens = 8;
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

// What one warp chooses among: lane l has experts l, l + 32, ...
template <int kPerLane>
struct Candidates {
  float logits[kPerLane];
  // In the order in which TakeBest wants them.
  uint32_t order[kPerLane];
  int experts[kPerLane];
};

struct BestTwo {
  float best = -INFINITY;
  float second = -INFINITY;

  __device__ void Offer(float value) {
    second = fmaxf(second, fminf(best, value));
    best = fmaxf(best, value);
  }
};

// The groups' scores, each the sum of its two largest values: as many lanes as there are share out
// a group.
__device__ void ScoreGroups(const RouterParams& p, const float* values, float* scores) {
  const int lane = threadIdx.x % kWarp;
  const int size = p.num_experts / p.num_groups;
  int sharing = 1;
  while (sharing * 2 * p.num_groups <= kWarp) sharing *= 2;
  for (int first = 0; first < p.num_groups; first += kWarp / sharing) {
    const int group = first + lane / sharing;
    BestTwo two;
    for (int i = lane % sharing; i < size && group < p.num_groups; i += sharing) {
      const float value = values[group * size + i];
      two.Offer(isnan(value) ? -INFINITY : value);
    }
    for (int offset = 1; offset < sharing; offset *= 2) {
      const float best = __shfl_xor_sync(kAllLanes, two.best, offset);
      const float second = __shfl_xor_sync(kAllLanes, two.second, offset);
      two.Offer(best);
      two.Offer(second);
    }
    const float sum = two.best + two.second;
    if (lane % sharing == 0 && group < p.num_groups) scores[group] = isnan(sum) ? -INFINITY : sum;
  }
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
  ScoreGroups(p, shared, scores);
  __syncwarp();
  uint32_t kept = 0;  // bit i: whether group lane + 32 i is
  for (int group = lane; group < p.num_groups; group += kWarp) {
    const float score = scores[group];
    int better = 0;
    for (int g = 0; g < p.num_groups; ++g) {
      better += scores[g] > score || (scores[g] == score && g < group) ? 1 : 0;
    }
    if (better < p.top_groups) kept |= 1u << group / kWarp;
  }
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int group = (lane + i * kWarp) / size;
    const uint32_t of_group = __shfl_sync(kAllLanes, kept, group % kWarp);
    if (group >= p.num_groups || (of_group >> group / kWarp & 1) == 0) candidates.order[i] = 0;
  }
  __syncwarp();
}

// Up to so many candidates of a lane are sorted once; more are looked through for each choice.
constexpr int kMostSorted = 8;

// Sorts a lane's candidates, the best first; equal ones stay in the order of their ids.
template <int kPerLane>
__device__ void SortCandidates(Candidates<kPerLane>& candidates) {
#pragma unroll
  for (int end = kPerLane - 1; end > 0; --end) {
#pragma unroll
    for (int i = 0; i < end; ++i) {
      const uint32_t order = candidates.order[i];
      const int expert = candidates.experts[i];
      const bool swap = candidates.order[i + 1] > order;
      candidates.order[i] = swap ? candidates.order[i + 1] : order;
      candidates.experts[i] = swap ? candidates.experts[i + 1] : expert;
      candidates.order[i + 1] = swap ? order : candidates.order[i + 1];
      candidates.experts[i + 1] = swap ? expert : candidates.experts[i + 1];
    }
  }
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
    candidates.experts[i] = expert;
  }
  if (p.num_groups != p.top_groups) KeepBestGroups(p, values, candidates, shared);
  if constexpr (kPerLane <= kMostSorted) SortCandidates(candidates);
  return candidates;
}

// The best candidate, the lowest of equal ones; it is a candidate no more. The same in every lane.
template <int kPerLane>
__device__ int TakeBest(Candidates<kPerLane>& candidates) {
  uint32_t best = candidates.order[0];
  int expert = candidates.experts[0];
  if constexpr (kPerLane > kMostSorted) {
#pragma unroll
    for (int i = 1; i < kPerLane; ++i) {
      if (candidates.order[i] > best) {
        best = candidates.order[i];
        expert = candidates.experts[i];
      }
    }
  }
  const uint32_t best_of_all = __reduce_max_sync(kAllLanes, best);
  const unsigned id = best == best_of_all ? static_cast<unsigned>(expert) : UINT32_MAX;
  const auto winner = static_cast<int>(__reduce_min_sync(kAllLanes, id));
  if constexpr (kPerLane > kMostSorted) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (candidates.experts[i] == winner) candidates.order[i] = 0;
    }
  } else {
    const bool taken = expert == winner;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const bool last = i + 1 == kPerLane;
      const uint32_t next = last ? 0 : candidates.order[last ? i : i + 1];
      candidates.order[i] = taken ? next : candidates.order[i];
      candidates.experts[i] =
          taken && !last ? candidates.experts[last ? i : i + 1] : candidates.experts[i];
    }
  }
  return winner;
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
__global__ void __launch_bounds__(kOneBlockTokens* kWarp) RouterKernel(const RouterParams p) {
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
  const int64_t wanted = one_block ? (p.tokens < 1 ? 1 : p.tokens) : kWarpsOfMany;
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
