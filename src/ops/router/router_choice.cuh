#pragma once

#include "ops/common/cuda/math.cuh"
#include "ops/router/router_kernels.h"

// A warp chooses a token's experts.
namespace sluice::ops::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;

// The order of values as an unsigned number: a NaN is the smallest value, both zeros are equal. 0
// stands for what cannot be chosen, below every value.
__device__ __forceinline__ uint32_t OrderOf(float value) {
  const float number = isnan(value) ? -INFINITY : value + 0.0f;
  const uint32_t bits = __float_as_uint(number);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// exp(x) for x in [-128, 0]: the steps of RouterSigmoid on the host, each rounded by itself.
__device__ inline double ExpOfNegative(double x) {
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
__device__ inline float SigmoidOf(float x) {
  if (isnan(x)) return x;
  const double e = ExpOfNegative(fmax(-128.0, -fabs(static_cast<double>(x))));
  return static_cast<float>(__ddiv_rn(x < 0.0f ? e : 1.0, __dadd_rn(1.0, e)));
}

// What one warp chooses among: lane l has experts l, l + 32, ...
template <int kPerLane>
struct Candidates {
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
__device__ inline void ScoreGroups(const RouterParams& p, const float* values, float* scores) {
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
__device__ inline void KeepBestGroups(const RouterParams& p, const float (&values)[kPerLane],
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
inline constexpr int kMostSorted = 8;

// Sorts a lane's candidates, the best first; equal ones stay in the order of their ids.
template <int kPerLane>
__device__ inline void SortCandidates(Candidates<kPerLane>& candidates) {
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

// A token's logits, of a lane those of experts lane, lane + 32, ...
template <int kPerLane>
struct LaneLogits {
  float values[kPerLane];

  __device__ LaneLogits(const RouterParams& p, int64_t token) {
    const int lane = threadIdx.x % kWarp;
    const float* row = p.logits + token * p.logits_stride;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int expert = lane + i * kWarp;
      values[i] = expert < p.num_experts ? row[expert] : -INFINITY;
    }
  }
};

template <int kPerLane>
__device__ inline Candidates<kPerLane> CandidatesOf(const RouterParams& p,
                                                    const LaneLogits<kPerLane>& logits,
                                                    float* shared) {
  const int lane = threadIdx.x % kWarp;
  Candidates<kPerLane> candidates;
  float values[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int expert = lane + i * kWarp;
    values[i] = logits.values[i];
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
__device__ inline int TakeBest(Candidates<kPerLane>& candidates) {
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

// This lane's choices and their scores, 0 where it has none: choice `lane` and choice lane + 32.
struct Chosen {
  int ids[2];
  float scores[2];
};

// The scores, or where their sum divides them in the end what is in proportion to them.
template <int kPerLane>
__device__ inline void ScoreChosen(const RouterParams& p, int64_t token,
                                   const LaneLogits<kPerLane>& logits, Chosen& chosen) {
  const int lane = threadIdx.x % kWarp;
  const float* row = p.logits + token * p.logits_stride;
  const float largest = row[__shfl_sync(kAllLanes, chosen.ids[0], 0)];
  float inverse_total = 1.0f;
  if (p.softmax && !p.renormalize_topk) {
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (lane + i * kWarp < p.num_experts) total += expf(logits.values[i] - largest);
    }
    inverse_total = 1.0f / WarpSum(total);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    chosen.scores[half] = 0.0f;
    if (lane + half * kWarp >= p.top_k) continue;
    const float logit = row[chosen.ids[half]];
    chosen.scores[half] =
        p.softmax ? expf(logit - largest) * inverse_total : 1.0f / (1.0f + expf(-logit));
  }
}

__device__ inline float NormOf(const RouterParams& p, const Chosen& chosen) {
  if (p.topk_norm == 1.0f) return WarpSum(chosen.scores[0] + chosen.scores[1]);
  const int lane = threadIdx.x % kWarp;
  float sum = lane < p.top_k ? powf(chosen.scores[0], p.topk_norm) : 0.0f;
  if (lane + kWarp < p.top_k) sum += powf(chosen.scores[1], p.topk_norm);
  return powf(WarpSum(sum), 1.0f / p.topk_norm);
}

template <int kPerLane>
__device__ inline Chosen RouteToken(const RouterParams& p, int64_t token,
                                    const LaneLogits<kPerLane>& logits, float* shared) {
  const int lane = threadIdx.x % kWarp;
  Candidates<kPerLane> candidates = CandidatesOf(p, logits, shared);
  Chosen chosen{};
  for (int j = 0; j < p.top_k; ++j) {
    const int id = TakeBest(candidates);
    if (j == lane) chosen.ids[0] = id;
    if (j == lane + kWarp) chosen.ids[1] = id;
  }
  ScoreChosen(p, token, logits, chosen);
  float factor = p.scale;
  if (p.renormalize_topk) {
    factor /= NormOf(p, chosen) + (p.softmax ? 0.0f : kSigmoidSumFloor);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int j = lane + half * kWarp;
    if (j >= p.top_k) continue;
    p.weights[token * p.weights_stride + j] = chosen.scores[half] * factor;
    p.ids[token * p.ids_stride + j] = chosen.ids[half];
  }
  return chosen;
}

}  // namespace sluice::ops::cuda
