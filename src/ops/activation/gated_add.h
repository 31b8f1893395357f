#pragma once

#include "device/tensor.h"
#include "ops/common/op_context.h"

namespace sluice::ops {

// out[t] += sigmoid(gate[t]) * y[t]: a shared expert behind its gate.
void SigmoidGatedAdd(ConstTensorView gate,  // [T, 1] f32
                     ConstTensorView y,     // [T, H] f32
                     TensorView out,        // [T, H] f32, added to
                     OpContext& context);

// out += y: the residual.
void Add(ConstTensorView y,  // [T, H] f32
         TensorView out,     // [T, H] f32, added to
         OpContext& context);

}  // namespace sluice::ops
