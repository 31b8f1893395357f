#pragma once

#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "quant/float_formats.h"

namespace sluice::ops {

// Element `i` of an array of f32, bf16 or f16, widened to f32. For reference code.
inline float LoadFloat(const void* data, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::kF32:
      return static_cast<const float*>(data)[i];
    case DType::kBF16:
      return ToFloat(static_cast<const Bf16*>(data)[i]);
    case DType::kF16:
      return ToFloat(static_cast<const F16*>(data)[i]);
    default:
      SLUICE_CHECK(dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16);
      return 0.0f;
  }
}

}  // namespace sluice::ops
