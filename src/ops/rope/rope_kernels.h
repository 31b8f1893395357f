#pragma once

#include <cstdint>

#include "device/cuda_stream.h"
#include "ops/common/cpu/tiers.h"

namespace sluice::ops {

// One token of Rope: x is [heads, head_dim], the stride in elements.
struct RopeParams {
  const float* cosines;  // [half]
  const float* sines;    // [half]
  float* x;
  int64_t head_stride;
  int64_t heads;
  int64_t half;   // rotary_dim / 2
  bool adjacent;  // pairs are (2i, 2i + 1), else (i, i + half)
};

namespace reference {
void RopeToken(const RopeParams& params);
}
SLUICE_DECLARE_IN_TIERS(void RopeToken(const RopeParams& params))

namespace cuda {

// The most frequencies that go with a launch: those of 512 rotary dimensions.
inline constexpr int64_t kMaxRopeFrequencies = 256;

struct RopeAnglesParams {
  float frequencies[kMaxRopeFrequencies];  // [half] of them
  const int32_t* positions;                // [tokens]
  float* cos_sin;                          // [tokens, 2, half]
  int64_t tokens;
  int64_t half;
  float factor;
};
void RopeAngles(const RopeAnglesParams& params, CudaStream& stream);

// All of a call's tokens: x is [tokens, heads, head_dim], strides in elements.
struct RopeParams {
  const float* cos_sin;  // [tokens, 2, half]
  float* x;
  int64_t token_stride;
  int64_t head_stride;
  int64_t tokens;
  int64_t heads;
  int64_t half;
  bool adjacent;
};
void Rope(const RopeParams& params, CudaStream& stream);

}  // namespace cuda

}  // namespace sluice::ops
