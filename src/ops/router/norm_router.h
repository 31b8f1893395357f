#pragma once

#include "device/tensor.h"
#include "ops/common/op_context.h"
#include "ops/norm/norm.h"
#include "ops/router/router.h"

namespace sluice::ops {

struct NormRouterDesc {
  NormDesc norm;
  RouterDesc router;
};

// h = norm(x), and the choice of experts by the logits h matrix^T: Norm, Gemm and Router, one after
// the other. On CUDA few tokens are one kernel, if h and matrix are bf16 or f16 alike, K is a
// multiple of 8, and the rows fit in a block; logits are sums of the same rounded h then.
void NormRouter(const NormRouterDesc& desc,
                ConstTensorView x,            // [T, K] f32, row stride free
                ConstTensorView norm_weight,  // [K] f32
                ConstTensorView matrix,       // [num_experts, K] f32 | bf16 | f16, contiguous
                ConstTensorView bias,         // as Router's
                TensorView h,        // [T, K] f32, on CUDA also bf16 or f16; row stride free
                TensorView weights,  // as Router's
                TensorView ids,      // as Router's
                OpContext& context);

}  // namespace sluice::ops
