#include "quant/block_scaled.h"

#include <gtest/gtest.h>

#include <vector>

#include "device/buffer.h"
#include "quant/float_formats.h"

namespace sluice {
namespace {

struct Form {
  int64_t rows, columns;
  int block_rows, block_columns;
};

// Every element by the definition, read whole and in odd pieces.
TEST(BlockScaled, DequantisesEveryElementByItsBlock) {
  for (const Form& form :
       {Form{1, 1, 128, 128}, Form{128, 256, 128, 128}, Form{130, 132, 128, 128},
        Form{7, 300, 128, 128}, Form{300, 7, 128, 128}, Form{5, 9, 2, 4}, Form{3, 500, 1, 200}}) {
    const BlockScaledFormat format{.block_rows = form.block_rows,
                                   .block_columns = form.block_columns};
    const Shape shape = {form.rows, form.columns};
    const int64_t count = shape.NumElements();
    Tensor values(DType::kF8E4M3, shape);
    auto* bits = static_cast<uint8_t*>(values.view().raw());
    for (int64_t i = 0; i < count; ++i) bits[i] = static_cast<uint8_t>(i * 37 % 127);
    const ConstTensorView flat = values.view().Reshape({count});
    Tensor scales(DType::kF32, ScaleShape(format, shape));
    const int64_t block_columns = scales.shape()[1];
    for (int64_t i = 0; i < scales.shape().NumElements(); ++i) {
      scales.data<float>()[i] = 0.01f * static_cast<float>(i + 1);
    }
    std::vector<float> want;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t block = i / form.columns / form.block_rows * block_columns +
                            i % form.columns / form.block_columns;
      want.push_back(ToFloat(F8E4M3{bits[i]}) * scales.data<float>()[block]);
    }
    for (const int64_t piece : {count, int64_t{1}, int64_t{131}}) {
      for (int64_t first = 0; first < count; first += piece) {
        const Tensor out(DType::kF32, {std::min(piece, count - first)});
        const int64_t end = first + out.shape()[0];
        DequantizeBlocks(format, shape, flat.Slice(first, end), scales, first, out.view());
        for (int64_t i = 0; i < out.shape()[0]; ++i) {
          ASSERT_EQ(out.view().data<float>()[i], want[first + i]) << first + i;
        }
      }
    }
    const Tensor narrow(DType::kBF16, shape);
    DequantizeBlocks(format, shape, flat, scales, 0, narrow.view());
    for (int64_t i = 0; i < count; ++i) {
      ASSERT_EQ(narrow.view().data<Bf16>()[i].bits, ToBf16(want[i]).bits) << i;
    }
  }
}

TEST(BlockScaled, TakesScalesOfBf16) {
  const BlockScaledFormat format{.block_rows = 1, .block_columns = 1};
  Tensor values(DType::kF8E4M3, {2});
  static_cast<uint8_t*>(values.view().raw())[0] = 0x38;
  static_cast<uint8_t*>(values.view().raw())[1] = 0x40;
  Tensor scales(DType::kBF16, {1, 2});
  scales.data<Bf16>()[0] = ToBf16(0.5f);
  scales.data<Bf16>()[1] = ToBf16(3.0f);
  const Tensor out(DType::kF32, {1, 2});
  DequantizeBlocks(format, {1, 2}, values, scales, 0, out.view());
  EXPECT_EQ(out.view().data<float>()[0], 0.5f);
  EXPECT_EQ(out.view().data<float>()[1], 6.0f);
}

}  // namespace
}  // namespace sluice
