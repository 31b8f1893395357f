#include "ops/rope/rope_kernels.h"

namespace sluice::ops::reference {

void RopeToken(const RopeParams& params) {
  for (int64_t h = 0; h < params.heads; ++h) {
    float* first = params.x + h * params.head_stride;
    float* second = first + params.half;
    for (int64_t i = 0; i < params.half; ++i) {
      const double a = first[i];
      const double b = second[i];
      const double cosine = params.cosines[i];
      const double sine = params.sines[i];
      first[i] = static_cast<float>(a * cosine - b * sine);
      second[i] = static_cast<float>(b * cosine + a * sine);
    }
  }
}

}  // namespace sluice::ops::reference
