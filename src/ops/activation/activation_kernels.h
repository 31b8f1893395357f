#pragma once

#include <cstdint>

#include "ops/common/cpu/tiers.h"

namespace sluice::ops {

namespace reference {
void SiluMulRow(const float* gate, const float* up, float* out, int64_t count);
void SigmoidGatedAddRow(float gate, const float* y, float* out, int64_t count);
void AddRow(const float* y, float* out, int64_t count);
}  // namespace reference

// out[i] = silu(gate[i]) * up[i]
SLUICE_DECLARE_IN_TIERS(void SiluMulRow(const float* gate, const float* up, float* out,
                                        int64_t count))
// out[i] += sigmoid(gate) * y[i]
SLUICE_DECLARE_IN_TIERS(void SigmoidGatedAddRow(float gate, const float* y, float* out,
                                                int64_t count))
// out[i] += y[i]
SLUICE_DECLARE_IN_TIERS(void AddRow(const float* y, float* out, int64_t count))

}  // namespace sluice::ops
