#pragma once

#include <cstdint>

#include "device/cuda_stream.h"
#include "device/dtype.h"

namespace sluice::ops::cuda {

// out[i] = table[rows[i]], widened to f32; NaN where rows[i] is outside [0, table_rows). Strides in
// elements.
struct CopyRowsParams {
  const void* table;  // [table_rows, width]
  DType dtype;
  int64_t table_rows;
  int64_t table_stride;
  const int32_t* rows;  // [count]
  float* out;           // [count, width]
  int64_t out_stride;
  int64_t count;
  int64_t width;
};
void CopyRows(const CopyRowsParams& params, CudaStream& stream);

}  // namespace sluice::ops::cuda
