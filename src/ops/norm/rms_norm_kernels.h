#pragma once

#include <cstdint>

#include "ops/common/cpu/tiers.h"

namespace sluice::ops {

// Rows of RmsNorm: x and out are [rows, width], strides in elements.
struct RmsNormParams {
  const float* x;
  int64_t x_stride;
  const float* weight;
  float* out;
  int64_t out_stride;
  int64_t rows;
  int64_t width;
  float eps;
};

namespace reference {
void RmsNormRows(const RmsNormParams& params);
}
SLUICE_DECLARE_IN_TIERS(void RmsNormRows(const RmsNormParams& params))

}  // namespace sluice::ops
