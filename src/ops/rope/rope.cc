#include "ops/rope/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "ops/common/checks.h"
#include "ops/rope/rope_kernels.h"
#include "quant/float_formats.h"

namespace sluice::ops {
namespace {

constexpr int64_t kAngleTokenGrain = 4;
// Elements a thread takes at a time, a few microseconds of work.
constexpr int64_t kElementGrain = 16'384;

// The dimension, of `desc.rotary_dim`, whose frequency turns `turns` times within the original
// context; not a whole number.
double DimensionOfTurns(const RopeDesc& desc, double turns) {
  return desc.rotary_dim * std::log(desc.original_positions / (turns * 2 * std::numbers::pi)) /
         (2 * std::log(desc.theta));
}

void ScaleYarn(const RopeDesc& desc, std::vector<float>& frequencies) {
  double low = DimensionOfTurns(desc, desc.beta_fast);
  double high = DimensionOfTurns(desc, desc.beta_slow);
  if (desc.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, desc.rotary_dim - 1.0);
  if (low == high) high += 0.001;  // no division by 0
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const float ramp =
        (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low);
    const float kept = 1.0f - std::clamp(ramp, 0.0f, 1.0f);
    const float stretched = 1.0f / (static_cast<float>(desc.factor) * (1.0f / frequencies[i]));
    frequencies[i] = stretched * (1.0f - kept) + frequencies[i] * kept;
  }
}

void ScaleByWavelength(const RopeDesc& desc, std::vector<float>& frequencies) {
  const double longest = desc.original_positions / desc.low_freq_factor;
  const double shortest = desc.original_positions / desc.high_freq_factor;
  for (float& frequency : frequencies) {
    const double wavelength = 2 * std::numbers::pi / frequency;
    if (wavelength < shortest) continue;
    const double stretched = frequency / desc.factor;
    const double kept = (desc.original_positions / wavelength - desc.low_freq_factor) /
                        (desc.high_freq_factor - desc.low_freq_factor);
    frequency = static_cast<float>(
        wavelength > longest ? stretched : (1.0 - kept) * stretched + kept * frequency);
  }
}

}  // namespace

std::vector<float> RopeFrequencies(const RopeDesc& desc) {
  SLUICE_CHECK_GT(desc.theta, 0.0);
  SLUICE_CHECK_GT(desc.factor, 0.0);
  std::vector<float> frequencies(desc.rotary_dim / 2);
  for (int i = 0; i < desc.rotary_dim / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(desc.rotary_dim);
    frequencies[i] = 1.0f / static_cast<float>(std::pow(desc.theta, static_cast<double>(exponent)));
  }
  switch (desc.scaling) {
    case RopeScaling::kNone:
      break;
    case RopeScaling::kLinear:
      for (float& frequency : frequencies) frequency /= static_cast<float>(desc.factor);
      break;
    case RopeScaling::kYarn:
      ScaleYarn(desc, frequencies);
      break;
    case RopeScaling::kWavelength:
      ScaleByWavelength(desc, frequencies);
      break;
  }
  for (float& frequency : frequencies) {
    if (desc.frequency_dtype == DType::kBF16) frequency = ToFloat(ToBf16(frequency));
    if (desc.frequency_dtype == DType::kF16) frequency = ToFloat(ToF16(frequency));
  }
  return frequencies;
}

void RopeAngles(const RopeDesc& desc, ConstTensorView positions, TensorView cos_sin,
                OpContext& context) {
  SLUICE_CHECK_GT(desc.rotary_dim, 0);
  SLUICE_CHECK_EQ(desc.rotary_dim % 2, 0);
  CheckRank("rope positions", positions, 1);
  const int64_t tokens = positions.dim(0);
  const int64_t half = desc.rotary_dim / 2;
  CheckTensor("rope positions", positions, DType::kI32, {tokens});
  CheckTensor("rope cos_sin", cos_sin, DType::kF32, {tokens, 2, half});
  SLUICE_CHECK(cos_sin.IsContiguous());
  const std::vector<float> frequencies = RopeFrequencies(desc);
  const auto factor = static_cast<float>(desc.attention_factor);
  if constexpr (kCudaBuilt) {
    if (context.OnCuda()) {
      SLUICE_CHECK_LE(half, cuda::kMaxRopeFrequencies);
      cuda::RopeAnglesParams params{.frequencies = {},
                                    .positions = positions.data<int32_t>(),
                                    .cos_sin = cos_sin.data<float>(),
                                    .tokens = tokens,
                                    .half = half,
                                    .factor = factor};
      std::copy_n(frequencies.data(), half, params.frequencies);
      cuda::RopeAngles(params, *context.cuda);
      return;
    }
  }
  context.pool.ParallelFor(tokens, kAngleTokenGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      float* cosines = cos_sin.data<float>() + t * 2 * half;
      const float position = static_cast<float>(positions.data<int32_t>()[t]);
      for (int64_t i = 0; i < half; ++i) {
        const double angle = position * frequencies[i];
        cosines[i] = static_cast<float>(std::cos(angle)) * factor;
        cosines[half + i] = static_cast<float>(std::sin(angle)) * factor;
      }
    }
  });
}

void Rope(RopePairing pairing, ConstTensorView cos_sin, TensorView x, OpContext& context) {
  CheckRank("rope cos_sin", cos_sin, 3);
  CheckRank("rope x", x, 3);
  const int64_t tokens = x.dim(0);
  const int64_t half = cos_sin.dim(2);
  CheckTensor("rope cos_sin", cos_sin, DType::kF32, {tokens, 2, half});
  CheckTensor("rope x", x, DType::kF32, {tokens, x.dim(1), x.dim(2)});
  SLUICE_CHECK(cos_sin.IsContiguous());
  SLUICE_CHECK_LE(2 * half, x.dim(2));
  if constexpr (kCudaBuilt) {
    if (context.OnCuda()) {
      cuda::Rope({.cos_sin = cos_sin.data<float>(),
                  .x = x.data<float>(),
                  .token_stride = x.stride(0),
                  .head_stride = x.stride(1),
                  .tokens = tokens,
                  .heads = x.dim(1),
                  .half = half,
                  .adjacent = pairing == RopePairing::kAdjacent},
                 *context.cuda);
      return;
    }
  }
  const auto kernel =
      context.reference ? &reference::RopeToken : SLUICE_TIER_FUNCTION(context.tier, RopeToken);
  const auto body = [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const float* cosines = cos_sin.data<float>() + t * 2 * half;
      kernel({.cosines = cosines,
              .sines = cosines + half,
              .x = x.data<float>() + t * x.stride(0),
              .head_stride = x.stride(1),
              .heads = x.dim(1),
              .half = half,
              .adjacent = pairing == RopePairing::kAdjacent});
    }
  };
  const int64_t grain =
      std::max<int64_t>(1, kElementGrain / std::max<int64_t>(1, x.dim(1) * 2 * half));
  context.pool.ParallelFor(tokens, grain, body);
}

}  // namespace sluice::ops
