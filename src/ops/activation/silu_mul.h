#pragma once

#include "device/tensor.h"
#include "ops/common/op_context.h"

namespace sluice::ops {

// out = silu(gate) * up with silu(v) = v / (1 + exp(-v)), the SwiGLU of arXiv:2002.05202.
void SiluMul(ConstTensorView gate_up,  // [T, 2F] f32: gate columns, then up columns
             TensorView out,           // [T, F] f32, on CUDA also bf16 or f16, the input of a
                                       // product; must not overlap gate_up
             OpContext& context);

}  // namespace sluice::ops
