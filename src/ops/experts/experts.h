#pragma once

#include "device/tensor.h"
#include "ops/common/op_context.h"
#include "ops/grouped_gemm/grouped_gemm.h"

namespace sluice::ops {

// The expert that every token goes through, beside those it is routed to.
struct SharedExpert {
  ConstTensorView gate_up;  // [2 S, H] f32 | bf16 | f16, contiguous; empty() where there is none
  ConstTensorView down;     // [H, S] of the same dtype, contiguous
  ConstTensorView gate;     // [1, H] likewise: its weight is sigmoid(gate . x); or empty(): 1
};

// All that follows the choice of experts, where every expert is here:
//   out[t] += sum over choices j of weights[t][j] * down(e) swiglu(gate_up(e) x[t]), e = ids[t][j]
//             + the shared expert's weight * down swiglu(gate_up x[t])
// On the CPU it is BuildDispatchPlan, two GroupedGemms, Combine and AddSharedExpert, one after the
// other. On CUDA, for few tokens, it is two launches that read each expert's weights once; they
// take matrices of bf16 or f16, x of the same dtype, widths that are multiples of 8, and addresses
// and rows of x that are multiples of 16 bytes. There sums run by expert, in an order that the
// shapes and ids decide. Ids and slots are trusted on CUDA; a token's ids differ.
void Experts(ConstTensorView x,            // [T, H] f32, on CUDA also of the weights' dtype
             ConstTensorView ids,          // [T, top_k] i32, contiguous
             ConstTensorView weights,      // [T, top_k] f32, contiguous
             ConstTensorView slots,        // [experts] i32, each one's slot
             const ExpertMatrix& gate_up,  // [2 F, H]
             const ExpertMatrix& down,     // [H, F]
             const SharedExpert& shared,
             TensorView out,  // [T, H] f32, row stride free; must not overlap x
             OpContext& context);

// out[t] += the shared expert's weight * down swiglu(gate_up x[t]), if there is one. Shapes are
// those of Experts.
void AddSharedExpert(const SharedExpert& shared, ConstTensorView x, TensorView out,
                     OpContext& context);

}  // namespace sluice::ops
