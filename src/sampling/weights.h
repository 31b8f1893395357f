#pragma once

#include <bit>
#include <cstdint>

// The arithmetic of a draw, one source for the host and for CUDA kernels. To give the same bits on
// both it must be compiled without fused multiply-adds.
#if defined(__CUDACC__)
#define SLUICE_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define SLUICE_HOST_DEVICE inline
#endif

namespace sluice {

// vLLM's border between greedy and random sampling: below it 1 / temperature overflows the weights.
inline constexpr float kGreedyTemperature = 1e-5f;

// A float's bits; those of numbers that are not negative have the order of the numbers.
SLUICE_HOST_DEVICE uint32_t FloatBits(float x) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(x);
#else
  return std::bit_cast<uint32_t>(x);
#endif
}

SLUICE_HOST_DEVICE float FloatOf(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  return std::bit_cast<float>(bits);
#endif
}

// e^x for x <= 0 to about 2 units in the last place; 0 below -87, where floats turn subnormal.
// Branch-free, so that loops over it vectorise, and the same on every machine.
SLUICE_HOST_DEVICE float ExpNonPositive(float x) {
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;  // few bits, so that n * kLn2High is exact
  constexpr float kLn2Low = -2.12194440e-4f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  constexpr uint32_t kRoundBits = 0x4b400000u;
  const float clamped = x < -87.0f ? -87.0f : x;
  const float shifted = clamped * kLog2E + kRound;
  const float n = shifted - kRound;
  const float r = (clamped - n * kLn2High) - n * kLn2Low;  // |r| <= ln(2) / 2
  float taylor = 1.0f / 5040;
  taylor = taylor * r + 1.0f / 720;
  taylor = taylor * r + 1.0f / 120;
  taylor = taylor * r + 1.0f / 24;
  taylor = taylor * r + 1.0f / 6;
  taylor = taylor * r + 0.5f;
  taylor = taylor * r + 1.0f;
  taylor = taylor * r + 1.0f;
  const uint32_t exponent = FloatBits(shifted) - kRoundBits;  // modulo 2^32
  const float power = FloatOf((exponent + 127u) << 23);
  return x < -87.0f ? 0.0f : taylor * power;
}

// Weights are summed as whole numbers of 2^-44, so that a sum does not depend on its order: what is
// kept by top_p and what is drawn is the same on every machine, however the work was cut.
inline constexpr double kMassUnits = 0x1p44;  // of a weight of 1
// The largest vocabulary whose weights' sum fits in 63 bits.
inline constexpr int64_t kMaxVocabulary = int64_t{1} << 19;

// The units of a weight in [0, 1], rounded to nearest even.
SLUICE_HOST_DEVICE uint64_t MassOf(float weight) {
#if defined(__CUDA_ARCH__)
  return __float2ull_rn(weight * 0x1p44f);
#else
  // Adding 1.5 * 2^52 rounds to an integer that stands in the low bits; loops of it vectorise.
  constexpr double kRound = 0x1.8p52;
  return std::bit_cast<uint64_t>(static_cast<double>(weight) * kMassUnits + kRound) -
         std::bit_cast<uint64_t>(kRound);
#endif
}

// What the kept tokens' mass must reach: `top_p` of `total`, at least one unit.
SLUICE_HOST_DEVICE uint64_t TopPGoal(float top_p, uint64_t total) {
  const double share = static_cast<double>(top_p) * static_cast<double>(total);
  auto goal = static_cast<uint64_t>(share);
  if (static_cast<double>(goal) < share) ++goal;
  if (goal < 1) goal = 1;
  return goal < total ? goal : total;
}

// A place in [0, total) from 64 random bits: the token drawn is the first at which the running sum
// of masses passes it.
SLUICE_HOST_DEVICE uint64_t DrawTarget(uint64_t random, uint64_t total) {
#if defined(__CUDA_ARCH__)
  return __umul64hi(random, total);
#else
  __extension__ typedef unsigned __int128 Wide;  // NOLINT(modernize-use-using)
  return static_cast<uint64_t>((static_cast<Wide>(random) * total) >> 64);
#endif
}

// What the request makes of one token's logit. A request has at most one of a token.
struct LogitEdit {
  int32_t token = 0;
  float bias = 0;        // logit_bias
  bool masked = false;   // an end that min_tokens forbids
  float repetition = 1;  // repetition_penalty, 1 where the token was not seen
  float frequency = 0;   // frequency_penalty times how often it was made
  float presence = 0;    // presence_penalty, 0 where it was not made
};

SLUICE_HOST_DEVICE float EditedLogit(float logit, const LogitEdit& edit) {
  logit += edit.bias;
  if (edit.masked) logit = -FloatOf(0x7f800000u);
  if (edit.repetition != 1.0f) {
    logit = logit > 0 ? logit / edit.repetition : logit * edit.repetition;
  }
  logit -= edit.frequency;
  return logit - edit.presence;
}

}  // namespace sluice
