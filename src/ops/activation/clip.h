#pragma once

#include "device/tensor.h"
#include "ops/common/op_context.h"

namespace sluice::ops {

// Clamps each element to [-limit, limit] in place; a NaN stays one.
void Clip(float limit,
          TensorView x,  // [rows, H] f32, row stride free
          OpContext& context);

}  // namespace sluice::ops
