#include "ops/rope/rope.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/common/checks.h"
#include "ops/rope/rope_kernels.h"

namespace sluice::ops {
namespace {

constexpr int64_t kAngleTokenGrain = 4;
// Elements a thread takes at a time, a few microseconds of work.
constexpr int64_t kElementGrain = 16'384;

// 1 / theta^(2i / dim), each operation rounded to f32 as transformers' default RoPE rounds it.
std::vector<float> InverseFrequencies(const RopeDesc& desc) {
  std::vector<float> frequencies(desc.rotary_dim / 2);
  for (int i = 0; i < desc.rotary_dim / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(desc.rotary_dim);
    frequencies[i] = 1.0f / static_cast<float>(std::pow(desc.theta, static_cast<double>(exponent)));
  }
  return frequencies;
}

}  // namespace

void RopeAngles(const RopeDesc& desc, ConstTensorView positions, TensorView cos_sin,
                OpContext& context) {
  SLUICE_CHECK_GT(desc.theta, 0.0);
  SLUICE_CHECK_GT(desc.rotary_dim, 0);
  SLUICE_CHECK_EQ(desc.rotary_dim % 2, 0);
  CheckRank("rope positions", positions, 1);
  const int64_t tokens = positions.dim(0);
  const int64_t half = desc.rotary_dim / 2;
  CheckTensor("rope positions", positions, DType::kI32, {tokens});
  CheckTensor("rope cos_sin", cos_sin, DType::kF32, {tokens, 2, half});
  SLUICE_CHECK(cos_sin.IsContiguous());
  const std::vector<float> frequencies = InverseFrequencies(desc);
  context.pool.ParallelFor(tokens, kAngleTokenGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      float* cosines = cos_sin.data<float>() + t * 2 * half;
      const float position = static_cast<float>(positions.data<int32_t>()[t]);
      for (int64_t i = 0; i < half; ++i) {
        const double angle = position * frequencies[i];
        cosines[i] = static_cast<float>(std::cos(angle));
        cosines[half + i] = static_cast<float>(std::sin(angle));
      }
    }
  });
}

void Rope(ConstTensorView cos_sin, TensorView x, OpContext& context) {
  CheckRank("rope cos_sin", cos_sin, 3);
  CheckRank("rope x", x, 3);
  const int64_t tokens = x.dim(0);
  const int64_t half = cos_sin.dim(2);
  CheckTensor("rope cos_sin", cos_sin, DType::kF32, {tokens, 2, half});
  CheckTensor("rope x", x, DType::kF32, {tokens, x.dim(1), x.dim(2)});
  SLUICE_CHECK(cos_sin.IsContiguous());
  SLUICE_CHECK_LE(2 * half, x.dim(2));
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
              .half = half});
    }
  };
  const int64_t grain =
      std::max<int64_t>(1, kElementGrain / std::max<int64_t>(1, x.dim(1) * 2 * half));
  context.pool.ParallelFor(tokens, grain, body);
}

}  // namespace sluice::ops
