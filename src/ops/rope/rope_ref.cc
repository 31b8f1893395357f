#include "ops/rope/rope_kernels.h"

namespace sluice::ops::reference {

void RopeToken(const RopeParams& params) {
  for (int64_t h = 0; h < params.heads; ++h) {
    float* head = params.x + h * params.head_stride;
    for (int64_t i = 0; i < params.half; ++i) {
      float& first = head[params.adjacent ? 2 * i : i];
      float& second = head[params.adjacent ? 2 * i + 1 : i + params.half];
      const double a = first;
      const double b = second;
      const double cosine = params.cosines[i];
      const double sine = params.sines[i];
      first = static_cast<float>(a * cosine - b * sine);
      second = static_cast<float>(b * cosine + a * sine);
    }
  }
}

}  // namespace sluice::ops::reference
