#pragma once

#include "device/tensor.h"
#include "ops/common/op_context.h"

namespace sluice::ops {

enum class GemmEpilogue {
  kNone,
  // w and bias have gate rows, then up rows: out = silu(gate) * up, as SiluMul makes it.
  kSwiGlu,
};

struct GemmDesc {
  bool accumulate = false;  // out += instead of out =; not with an epilogue
  GemmEpilogue epilogue = GemmEpilogue::kNone;
};

// out = x w^T + bias (+ out). On the CPU each element sums K in fixed chunks and a fixed lane
// order, so that a row's bits do not depend on M.
//
// On CUDA the order of a sum depends on M (but for OpContext::batch_invariant), N, K and the
// device, and on nothing else. The fast kernels take w of bf16 or f16, K a multiple of 8, x of f32
// or w's dtype, and rows of x and w that start at multiples of 16 bytes; they round an f32 x to w's
// dtype. Everything else goes to a plain kernel, many times slower, which rounds nothing. Parts of
// w may be read while the kernel queued before still runs: w is never what that kernel writes.
void Gemm(const GemmDesc& desc,
          ConstTensorView x,     // [M, K] f32, on CUDA also bf16 or f16; row stride free
          ConstTensorView w,     // [N, K] f32 | bf16 | f16, contiguous; kSwiGlu: [2 N, K]
          ConstTensorView bias,  // [N] f32, or empty(); kSwiGlu: [2 N]
          TensorView out,        // [M, N] f32, row stride free; must not overlap x; kSwiGlu: on
                                 // CUDA also bf16 or f16, the input of a product
          OpContext& context);

}  // namespace sluice::ops
