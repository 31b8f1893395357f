#include "ops/common/cpu/vec.h"
#include "ops/rope/rope_kernels.h"

namespace sluice::ops::SLUICE_TIER {
namespace {

void RopeAdjacent(const RopeParams& params) {
  for (int64_t h = 0; h < params.heads; ++h) {
    float* __restrict head = params.x + h * params.head_stride;
    for (int64_t i = 0; i < params.half; ++i) {
      const float a = head[2 * i];
      const float b = head[2 * i + 1];
      head[2 * i] = a * params.cosines[i] - b * params.sines[i];
      head[2 * i + 1] = b * params.cosines[i] + a * params.sines[i];
    }
  }
}

}  // namespace

void RopeToken(const RopeParams& params) {
  if (params.adjacent) return RopeAdjacent(params);
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
