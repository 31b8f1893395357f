#pragma once

#include <cstdint>

#include "ops/common/cpu/tiers.h"

namespace sluice::ops {

// One token of Combine.
struct CombineParams {
  const float* y;
  int64_t y_stride;
  const int32_t* rows;   // [top_k]
  const float* weights;  // [top_k]
  int64_t top_k;
  float* out;  // [width], added to
  int64_t width;
};

namespace reference {
void CombineToken(const CombineParams& params);
}
SLUICE_DECLARE_IN_TIERS(void CombineToken(const CombineParams& params))

}  // namespace sluice::ops
