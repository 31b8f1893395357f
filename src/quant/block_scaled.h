#pragma once

#include <cstdint>

#include "device/dtype.h"
#include "device/tensor.h"

namespace sluice {

// A matrix of small floats with a scale for each block of rows and columns, as
// arXiv:2412.19437 (section 3.3) stores weights: element (i, j) stands for values[i, j] *
// scales[i / block_rows, j / block_columns]. The matrix may end inside a block.
struct BlockScaledFormat {
  DType dtype = DType::kF8E4M3;  // of the values
  int block_rows = 128;
  int block_columns = 128;
};

// Shape of the scales of a [rows, columns] matrix.
Shape ScaleShape(const BlockScaledFormat& format, const Shape& matrix);

// Writes elements [first, first + n) of a matrix, row by row, to `target`: the product in f32, then
// rounded to target's dtype.
void DequantizeBlocks(const BlockScaledFormat& format, const Shape& matrix,
                      ConstTensorView values,  // [n] f8e4m3: these elements
                      ConstTensorView scales,  // ScaleShape of the matrix, f32 or bf16
                      int64_t first,
                      TensorView target);  // n elements of f32, bf16 or f16, contiguous

}  // namespace sluice
