#pragma once

#include "device/tensor.h"
#include "ops/common/op_context.h"
#include "ops/gemm/gemm.h"
#include "ops/norm/norm.h"

namespace sluice::ops {

struct NormGemmDesc {
  NormDesc norm;
  GemmEpilogue epilogue = GemmEpilogue::kNone;
};

// out = norm(x) w^T + bias, or the epilogue of that: Norm, then Gemm, bit for bit on the CPU. On
// CUDA few rows of a regular product (as Gemm says) are normed by each of its blocks, in one
// kernel; norm(x) is rounded to w's dtype there. As of w, parts of norm_weight may be read while
// the kernel queued before still runs.
void NormGemm(const NormGemmDesc& desc,
              ConstTensorView x,            // [M, K] f32, row stride free
              ConstTensorView norm_weight,  // [K] f32
              ConstTensorView w,            // as Gemm's
              ConstTensorView bias,         // as Gemm's
              TensorView out,               // as Gemm's
              OpContext& context);

}  // namespace sluice::ops
