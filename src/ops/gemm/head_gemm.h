#pragma once

#include "device/tensor.h"
#include "ops/common/op_context.h"

namespace sluice::ops {

// out[t][h] = w[h] x[t][h]: a matrix for each head. An element is summed as in Gemm, so that on the
// CPU a row's bits do not depend on T.
void HeadGemm(ConstTensorView x,  // [T, heads, K] f32, on CUDA also bf16 or f16; outer strides free
              ConstTensorView w,  // [heads, N, K] f32 | bf16 | f16, contiguous
              TensorView out,     // [T, heads, N] f32, outer strides free; must not overlap x
              OpContext& context);

}  // namespace sluice::ops
