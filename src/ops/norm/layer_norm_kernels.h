#pragma once

#include <cstdint>

#include "ops/common/cpu/tiers.h"

namespace sluice::ops {

// One row of LayerNorm: x and out are [width].
struct LayerNormParams {
  const float* x;
  const float* weight;
  float* out;
  int64_t width;
  float eps;
};

namespace reference {
void LayerNormRow(const LayerNormParams& params);
}
SLUICE_DECLARE_IN_TIERS(void LayerNormRow(const LayerNormParams& params))

}  // namespace sluice::ops
