#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "device/dtype.h"
#include "device/tensor.h"

namespace sluice {

// bf16 is the upper half of f32 (exact).
inline float ToFloat(Bf16 value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16);
}

// Rounds to nearest, ties to even; NaN stays NaN.
inline Bf16 ToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

// IEEE binary16 (exact, subnormals included).
float ToFloat(F16 value);

// e4m3 of the OCP 8-bit floating point specification, section 5.2: bias 7, subnormals, no infinity,
// NaN where exponent and mantissa are all ones (exact).
constexpr float ToFloat(F8E4M3 value) {
  const float sign = (value.bits & 0x80u) != 0 ? -1.0f : 1.0f;
  const uint32_t exponent = (value.bits >> 3) & 0xfu;
  const uint32_t mantissa = value.bits & 0x7u;
  if (exponent == 15 && mantissa == 7) return std::bit_cast<float>(0x7fc00000u);
  if (exponent == 0) return sign * static_cast<float>(mantissa) * 0x1p-9f;
  return sign * std::bit_cast<float>((exponent + 120) << 23 | mantissa << 20);
}

// Rounds to nearest, ties to even; past 65504 it becomes infinity.
F16 ToF16(float value);

inline float ToFloat(float value) {
  return value;
}

// Copies `source` to `target`, converting between f32, bf16 and f16. Both are contiguous and of the
// same shape.
void ConvertFloats(ConstTensorView source, TensorView target);

}  // namespace sluice
