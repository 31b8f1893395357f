#pragma once

#include "device/tensor.h"
#include "ops/common/op_context.h"

namespace sluice::ops {

struct RmsNormDesc {
  float eps;  // added to the mean of squares
};

// out = x / sqrt(mean(x^2) + eps) * weight, row by row (arXiv:1910.07467). Serves the hidden state
// and, as [T, heads, head_dim], the per-head norm of queries and keys.
void RmsNorm(const RmsNormDesc& desc,
             ConstTensorView x,       // [rows, H] or [T, rows, H] f32, outer strides free
             ConstTensorView weight,  // [H] f32
             TensorView out,          // as x, with strides of its own; may alias x; on CUDA also
                                      // bf16 or f16, the input of a product
             OpContext& context);

}  // namespace sluice::ops
