#include "ops/activation/activation_kernels.h"
#include "ops/common/cpu/vec_math.h"

namespace sluice::ops::SLUICE_TIER {

void SiluMulRow(const float* gate, const float* up, float* out, int64_t count) {
  int64_t i = 0;
  for (; i + Vec::kLanes <= count; i += Vec::kLanes) {
    Vec::Store(out + i, Vec::Mul(Silu(Vec::Load(gate + i)), Vec::Load(up + i)));
  }
  if (i < count) {
    const int64_t rest = count - i;
    const Vec value = Vec::Mul(Silu(Vec::LoadN(gate + i, rest)), Vec::LoadN(up + i, rest));
    Vec::StoreN(out + i, value, rest);
  }
}

void SigmoidGatedAddRow(float gate, const float* y, float* out, int64_t count) {
  const float sigmoid = SigmoidOne(gate);
  for (int64_t i = 0; i < count; ++i) out[i] += sigmoid * y[i];
}

void AddRow(const float* y, float* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] += y[i];
}

}  // namespace sluice::ops::SLUICE_TIER
