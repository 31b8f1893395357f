#pragma once

#include "device/tensor.h"
#include "ops/common/op_context.h"

namespace sluice::ops {

struct GemmDesc {
  bool accumulate = false;  // out += instead of out =
};

// out = x w^T + bias (+ out). Each element sums K in fixed chunks and a fixed lane order, so that a
// row's bits do not depend on M.
void Gemm(const GemmDesc& desc,
          ConstTensorView x,     // [M, K] f32, row stride free
          ConstTensorView w,     // [N, K] f32 | bf16 | f16, contiguous
          ConstTensorView bias,  // [N] f32, or empty()
          TensorView out,        // [M, N] f32, row stride free; must not overlap x
          OpContext& context);

}  // namespace sluice::ops
