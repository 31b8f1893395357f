#include "ops/common/cpu/vec.h"
#include "ops/rope/rope_kernels.h"

namespace sluice::ops::SLUICE_TIER {

void RopeToken(const RopeParams& params) {
  for (int64_t h = 0; h < params.heads; ++h) {
    float* __restrict first = params.x + h * params.head_stride;
    float* __restrict second = first + params.half;
    for (int64_t i = 0; i < params.half; ++i) {
      const float a = first[i];
      const float b = second[i];
      first[i] = a * params.cosines[i] - b * params.sines[i];
      second[i] = b * params.cosines[i] + a * params.sines[i];
    }
  }
}

}  // namespace sluice::ops::SLUICE_TIER
