#include "ops/common/cpu/vec.h"
#include "ops/norm/layer_norm_kernels.h"

namespace sluice::ops::SLUICE_TIER {
namespace {

// Which of the two sums takes which element depends on the width alone.
float Sum(const float* x, int64_t width) {
  constexpr int kLanes = Vec::kLanes;
  Vec sums[2] = {Vec::Zero(), Vec::Zero()};
  int64_t i = 0;
  for (; i + 2 * kLanes <= width; i += 2 * kLanes) {
    sums[0] = Vec::Add(sums[0], Vec::Load(x + i));
    sums[1] = Vec::Add(sums[1], Vec::Load(x + i + kLanes));
  }
  float rest = 0.0f;
  for (; i < width; ++i) rest += x[i];
  return Vec::ReduceAdd(Vec::Add(sums[0], sums[1])) + rest;
}

float SumOfSquares(const float* x, int64_t width, float mean) {
  constexpr int kLanes = Vec::kLanes;
  const Vec shift = Vec::Set1(mean);
  Vec sums[2] = {Vec::Zero(), Vec::Zero()};
  int64_t i = 0;
  for (; i + 2 * kLanes <= width; i += 2 * kLanes) {
    const Vec first = Vec::Sub(Vec::Load(x + i), shift);
    const Vec second = Vec::Sub(Vec::Load(x + i + kLanes), shift);
    sums[0] = Vec::Fma(first, first, sums[0]);
    sums[1] = Vec::Fma(second, second, sums[1]);
  }
  float rest = 0.0f;
  for (; i < width; ++i) rest += (x[i] - mean) * (x[i] - mean);
  return Vec::ReduceAdd(Vec::Add(sums[0], sums[1])) + rest;
}

}  // namespace

void LayerNormRow(const LayerNormParams& params) {
  const auto count = static_cast<float>(params.width);
  const float mean = Sum(params.x, params.width) / count;
  const float variance = SumOfSquares(params.x, params.width, mean) / count;
  const float inverse = 1.0f / __builtin_sqrtf(variance + params.eps);
  for (int64_t i = 0; i < params.width; ++i) {
    params.out[i] = (params.x[i] - mean) * inverse * params.weight[i];
  }
}

}  // namespace sluice::ops::SLUICE_TIER
