#include "quant/float_formats.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "device/buffer.h"

namespace sluice {
namespace {

TEST(FloatFormats, EveryF16RoundTrips) {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const F16 half{static_cast<uint16_t>(bits)};
    const float wide = ToFloat(half);
    if (std::isnan(wide)) {
      EXPECT_TRUE(std::isnan(ToFloat(ToF16(wide))));
    } else {
      EXPECT_EQ(ToF16(wide).bits, half.bits) << bits;
    }
  }
}

TEST(FloatFormats, EveryBf16RoundTrips) {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const Bf16 value{static_cast<uint16_t>(bits)};
    const float wide = ToFloat(value);
    if (std::isnan(wide)) {
      EXPECT_TRUE(std::isnan(ToFloat(ToBf16(wide))));
    } else {
      EXPECT_EQ(ToBf16(wide).bits, value.bits) << bits;
    }
  }
}

TEST(FloatFormats, E4m3) {
  const auto value = [](int bits) { return ToFloat(F8E4M3{static_cast<uint8_t>(bits)}); };
  EXPECT_EQ(value(0x00), 0.0f);
  EXPECT_TRUE(std::signbit(value(0x80)));
  EXPECT_EQ(value(0x01), 0x1p-9f);  // least subnormal
  EXPECT_EQ(value(0x07), 7 * 0x1p-9f);
  EXPECT_EQ(value(0x08), 0x1p-6f);  // least normal
  EXPECT_EQ(value(0x38), 1.0f);
  EXPECT_EQ(value(0xbc), -1.5f);
  EXPECT_EQ(value(0x7e), 448.0f);
  EXPECT_TRUE(std::isnan(value(0x7f)));
  EXPECT_TRUE(std::isnan(value(0xff)));
  for (int bits = 1; bits <= 0x7e; ++bits) EXPECT_GT(value(bits), value(bits - 1)) << bits;
}

TEST(FloatFormats, RoundsHalfToEven) {
  EXPECT_EQ(ToBf16(std::bit_cast<float>(0x3f808000u)).bits, 0x3f80);  // tie, even below
  EXPECT_EQ(ToBf16(std::bit_cast<float>(0x3f818000u)).bits, 0x3f82);  // tie, even above
  EXPECT_EQ(ToBf16(std::bit_cast<float>(0x3f808001u)).bits, 0x3f81);
  EXPECT_EQ(ToF16(1.0f + 0x1p-11f).bits, 0x3c00);
  EXPECT_EQ(ToF16(1.0f + 3 * 0x1p-11f).bits, 0x3c02);
  EXPECT_EQ(ToF16(65519.0f).bits, 0x7bff);
  EXPECT_EQ(ToF16(65520.0f).bits, 0x7c00);
  EXPECT_EQ(ToF16(0x1p-25f).bits, 0);  // half of the least subnormal, even is zero
  EXPECT_EQ(ToF16(1.5f * 0x1p-25f).bits, 1);
}

TEST(FloatFormats, ConvertsTensors) {
  Tensor wide(DType::kF32, {3});
  Tensor narrow(DType::kBF16, {3});
  Tensor back(DType::kF32, {3});
  wide.data<float>()[0] = 1.0f;
  wide.data<float>()[1] = -2.5f;
  wide.data<float>()[2] = std::numeric_limits<float>::infinity();
  ConvertFloats(wide, narrow.view());
  ConvertFloats(narrow, back.view());
  for (int i = 0; i < 3; ++i) EXPECT_EQ(back.data<float>()[i], wide.data<float>()[i]);
  EXPECT_THROW(ConvertFloats(wide, Tensor(DType::kF32, {4}).view()), InternalError);
}

}  // namespace
}  // namespace sluice
