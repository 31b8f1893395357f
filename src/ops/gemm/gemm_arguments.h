#pragma once

#include "ops/gemm/gemm.h"
#include "ops/gemm/gemm_kernels.h"

namespace sluice::ops {

// Throws InternalError where Gemm's arguments do not fit each other.
void CheckGemm(const GemmDesc& desc, ConstTensorView x, ConstTensorView w, ConstTensorView bias,
               TensorView out, OpContext& context);

// Gemm's arguments, checked, as its kernels take them.
cuda::GemmParams CudaParams(const GemmDesc& desc, ConstTensorView x, ConstTensorView w,
                            ConstTensorView bias, TensorView out, const OpContext& context);

}  // namespace sluice::ops
