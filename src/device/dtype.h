#pragma once

#include <cstddef>
#include <cstdint>
#include <ostream>
#include <string_view>

namespace sluice {

// Element types of tensors in memory and in checkpoints.
enum class DType : uint8_t { kF32, kF16, kBF16, kF8E4M3, kI64, kI32, kI16, kI8, kU8, kBool };

constexpr size_t SizeOf(DType dtype) {
  switch (dtype) {
    case DType::kI64:
      return 8;
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kF16:
    case DType::kBF16:
    case DType::kI16:
      return 2;
    case DType::kF8E4M3:
    case DType::kI8:
    case DType::kU8:
    case DType::kBool:
      return 1;
  }
  return 0;
}

// "f32", "bf16", "f8e4m3", ...
constexpr std::string_view DTypeName(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "f32";
    case DType::kF16:
      return "f16";
    case DType::kBF16:
      return "bf16";
    case DType::kF8E4M3:
      return "f8e4m3";
    case DType::kI64:
      return "i64";
    case DType::kI32:
      return "i32";
    case DType::kI16:
      return "i16";
    case DType::kI8:
      return "i8";
    case DType::kU8:
      return "u8";
    case DType::kBool:
      return "bool";
  }
  return "unknown";
}

inline std::ostream& operator<<(std::ostream& out, DType dtype) {
  return out << DTypeName(dtype);
}

// 16-bit floats as they lie in memory. Arithmetic is done in f32: see quant/float_formats.h.
struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

// An 8-bit float: 4 bits of exponent, 3 of mantissa.
struct F8E4M3 {
  uint8_t bits;
};

// The DType of a C++ element type.
template <class T>
struct DTypeTraits;
template <>
struct DTypeTraits<float> {
  static constexpr DType kDType = DType::kF32;
};
template <>
struct DTypeTraits<F16> {
  static constexpr DType kDType = DType::kF16;
};
template <>
struct DTypeTraits<Bf16> {
  static constexpr DType kDType = DType::kBF16;
};
template <>
struct DTypeTraits<int64_t> {
  static constexpr DType kDType = DType::kI64;
};
template <>
struct DTypeTraits<int32_t> {
  static constexpr DType kDType = DType::kI32;
};
template <>
struct DTypeTraits<uint8_t> {
  static constexpr DType kDType = DType::kU8;
};

}  // namespace sluice
