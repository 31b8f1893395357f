#include "quant/float_formats.h"

#include "base/check.h"

namespace sluice {
namespace {

template <class From, class To>
To ConvertOne(From value) {
  const float wide = ToFloat(value);
  if constexpr (std::is_same_v<To, float>) {
    return wide;
  } else if constexpr (std::is_same_v<To, Bf16>) {
    return ToBf16(wide);
  } else {
    return ToF16(wide);
  }
}

template <class From, class To>
void Convert(ConstTensorView source, TensorView target) {
  const From* from = source.data<From>();
  To* to = target.data<To>();
  const int64_t count = source.NumElements();
  for (int64_t i = 0; i < count; ++i) to[i] = ConvertOne<From, To>(from[i]);
}

template <class From>
void ConvertFrom(ConstTensorView source, TensorView target) {
  switch (target.dtype()) {
    case DType::kF32:
      return Convert<From, float>(source, target);
    case DType::kBF16:
      return Convert<From, Bf16>(source, target);
    case DType::kF16:
      return Convert<From, F16>(source, target);
    default:
      throw InternalError("ConvertFloats: target " + target.ToString() + " is not a float tensor");
  }
}

}  // namespace

float ToFloat(F16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t exponent = (value.bits >> 10) & 0x1fu;
  const uint32_t mantissa = value.bits & 0x3ffu;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

F16 ToF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};   // NaN
  if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};  // rounds past max
  if (magnitude < 0x38800000u) {
    // Subnormal: adding 0.5 places the 2^-24 units in the low mantissa bits, rounded to even.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return {static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) & 0xffffu))};
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return {static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13))};
}

void ConvertFloats(ConstTensorView source, TensorView target) {
  SLUICE_CHECK_EQ(source.shape(), target.shape());
  SLUICE_CHECK(source.IsContiguous() && target.IsContiguous());
  if (source.dtype() == target.dtype()) {
    if (source.NumBytes() > 0) std::memcpy(target.raw(), source.raw(), source.NumBytes());
    return;
  }
  switch (source.dtype()) {
    case DType::kF32:
      return ConvertFrom<float>(source, target);
    case DType::kBF16:
      return ConvertFrom<Bf16>(source, target);
    case DType::kF16:
      return ConvertFrom<F16>(source, target);
    default:
      throw InternalError("ConvertFloats: source " + source.ToString() + " is not a float tensor");
  }
}

}  // namespace sluice
