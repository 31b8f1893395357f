#pragma once

#include <cstdint>

#include "device/cuda_stream.h"
#include "device/dtype.h"
#include "ops/common/cpu/tiers.h"

namespace sluice::ops {

// One row of LayerNorm: x and out are [width].
struct LayerNormParams {
  const float* x;
  const float* weight;
  float* out;
  int64_t width;
  float eps;
};

namespace reference {
void LayerNormRow(const LayerNormParams& params);
}
SLUICE_DECLARE_IN_TIERS(void LayerNormRow(const LayerNormParams& params))

namespace cuda {

// All of a call's rows: x and out are [rows, width], strides in elements.
struct LayerNormParams {
  const float* x;
  int64_t x_stride;
  const float* weight;
  void* out;
  DType out_dtype;
  int64_t out_stride;
  int64_t rows;
  int64_t width;
  float eps;
};
void LayerNorm(const LayerNormParams& params, CudaStream& stream);

}  // namespace cuda

}  // namespace sluice::ops
