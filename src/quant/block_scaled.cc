#include "quant/block_scaled.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "quant/float_formats.h"

namespace sluice {
namespace {

// Elements that are widened at a time.
constexpr int64_t kPiece = 128;

float LoadScale(const ConstTensorView& scales, int64_t index) {
  return scales.dtype() == DType::kBF16 ? ToFloat(scales.data<Bf16>()[index])
                                        : scales.data<float>()[index];
}

constexpr std::array<float, 256> kE4m3Values = [] {
  std::array<float, 256> values{};
  for (int i = 0; i < 256; ++i) values[i] = ToFloat(F8E4M3{static_cast<uint8_t>(i)});
  return values;
}();

}  // namespace

Shape ScaleShape(const BlockScaledFormat& format, const Shape& matrix) {
  SLUICE_CHECK_EQ(matrix.rank(), 2);
  return {(matrix[0] + format.block_rows - 1) / format.block_rows,
          (matrix[1] + format.block_columns - 1) / format.block_columns};
}

void DequantizeBlocks(const BlockScaledFormat& format, const Shape& matrix, ConstTensorView values,
                      ConstTensorView scales, int64_t first, TensorView target) {
  SLUICE_CHECK(values.dtype() == DType::kF8E4M3 && format.dtype == DType::kF8E4M3);
  SLUICE_CHECK(scales.dtype() == DType::kF32 || scales.dtype() == DType::kBF16);
  SLUICE_CHECK_EQ(scales.shape(), ScaleShape(format, matrix));
  SLUICE_CHECK_EQ(target.NumElements(), values.NumElements());
  SLUICE_CHECK_LE(first + target.NumElements(), matrix.NumElements());
  const auto* from = static_cast<const uint8_t*>(values.raw());
  const TensorView flat = target.Reshape({target.NumElements()});
  const int64_t columns = matrix[1];
  const int64_t end = first + flat.NumElements();
  std::array<float, kPiece> piece;
  for (int64_t at = first; at < end;) {
    const int64_t row = at / columns;
    const int64_t column = at % columns;
    const int64_t block = column / format.block_columns;
    const int64_t block_end = std::min((block + 1) * format.block_columns, columns);
    const int64_t count = std::min({kPiece, block_end - column, end - at});
    const float scale = LoadScale(scales, row / format.block_rows * scales.dim(1) + block);
    for (int64_t i = 0; i < count; ++i) piece[i] = kE4m3Values[from[at - first + i]] * scale;
    ConvertFloats(ConstTensorView(piece.data(), DType::kF32, {count}),
                  flat.Slice(at - first, at - first + count));
    at += count;
  }
}

}  // namespace sluice
