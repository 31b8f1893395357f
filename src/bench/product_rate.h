#pragma once

#include <cstdint>

#include "device/dtype.h"
#include "ops/common/op_context.h"

namespace sluice {

// A product that a machine's rate is measured by: x [rows, width] by w [width, width].
struct ProbeProduct {
  int64_t rows;
  int64_t width;
};
inline constexpr ProbeProduct kHostProduct{.rows = 256, .width = 2048};
inline constexpr ProbeProduct kDeviceProduct{.rows = 8192, .width = 8192};

// FLOP/s of ops::Gemm on the probe of the context's machine, with weights of `dtype`.
double MeasureProduct(ops::OpContext& context, DType dtype);

}  // namespace sluice
