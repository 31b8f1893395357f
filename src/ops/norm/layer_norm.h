#pragma once

#include "device/tensor.h"
#include "ops/common/op_context.h"

namespace sluice::ops {

struct LayerNormDesc {
  float eps;  // added to the variance
};

// out = (x - mean(x)) / sqrt(variance(x) + eps) * weight, row by row, without a bias
// (arXiv:1607.06450).
void LayerNorm(const LayerNormDesc& desc,
               ConstTensorView x,       // [rows, H] f32, row stride free
               ConstTensorView weight,  // [H] f32
               TensorView out,          // as x, with a stride of its own; may alias x; on CUDA
                                        // also bf16 or f16, the input of a product
               OpContext& context);

}  // namespace sluice::ops
