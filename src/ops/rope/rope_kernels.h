#pragma once

#include <cstdint>

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

}  // namespace sluice::ops
