#include <cmath>

#include "ops/activation/activation_kernels.h"

namespace sluice::ops::reference {

void SiluMulRow(const float* gate, const float* up, float* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const double g = gate[i];
    out[i] = static_cast<float>(g / (1.0 + std::exp(-g)) * up[i]);
  }
}

void SigmoidGatedAddRow(float gate, const float* y, float* out, int64_t count) {
  const double sigmoid = 1.0 / (1.0 + std::exp(-static_cast<double>(gate)));
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(out[i] + sigmoid * y[i]);
}

void AddRow(const float* y, float* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] += y[i];
}

}  // namespace sluice::ops::reference
