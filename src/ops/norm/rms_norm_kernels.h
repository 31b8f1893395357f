#pragma once

#include <cstdint>

#include "device/cuda_stream.h"
#include "device/dtype.h"
#include "ops/common/cpu/tiers.h"

namespace sluice::ops {

// Rows of RmsNorm: x and out are [rows, width], strides in elements.
struct RmsNormParams {
  const float* x;
  int64_t x_stride;
  const float* weight;
  float* out;
  int64_t out_stride;
  int64_t rows;
  int64_t width;
  float eps;
};

namespace reference {
void RmsNormRows(const RmsNormParams& params);
}
SLUICE_DECLARE_IN_TIERS(void RmsNormRows(const RmsNormParams& params))

namespace cuda {

// All of a call's rows: row r of token t stands at x + t * x_token_stride + r * x_stride.
struct RmsNormParams {
  const float* x;
  int64_t x_token_stride;
  int64_t x_stride;
  const float* weight;
  void* out;
  DType out_dtype;
  int64_t out_token_stride;
  int64_t out_stride;
  int64_t tokens;
  int64_t rows;  // a token
  int64_t width;
  float eps;
};
void RmsNorm(const RmsNormParams& params, CudaStream& stream);

}  // namespace cuda

}  // namespace sluice::ops
