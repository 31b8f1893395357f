#pragma once

#include "device/tensor.h"
#include "ops/common/op_context.h"

namespace sluice::ops {

// Both multiply by a weight and have no bias.
enum class NormKind { kRms, kLayer };

struct NormDesc {
  NormKind kind = NormKind::kRms;
  float eps;  // added to the mean of squares, or to the variance
};

// RmsNorm or LayerNorm, as `desc` says.
void Norm(const NormDesc& desc,
          ConstTensorView x,       // [rows, H] f32, row stride free
          ConstTensorView weight,  // [H] f32
          TensorView out,          // as x, with a stride of its own; may alias x; on CUDA also bf16
                                   // or f16, the input of a product
          OpContext& context);

}  // namespace sluice::ops
