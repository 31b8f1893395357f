#pragma once

#include "device/tensor.h"
#include "ops/common/op_context.h"

namespace sluice::ops {

// Where each (token, choice) stands when rows are sorted by expert. R = T * top_k rows, ordered by
// (expert, token, choice); no token data moves.
struct DispatchPlan {
  TensorView row_token;  // [R] i32: the token of each row, a gather index
  TensorView row_of;     // [T, top_k] i32: the row of (token, choice)
  TensorView offsets;    // [num_experts + 1] i32: rows of expert e are [offsets[e], offsets[e + 1])
};

// The plan's tensors come from context.arena and live until the caller's Arena::Scope ends. An id
// outside [0, num_experts) fails a check; on CUDA, where nobody can be told, it counts as the
// nearest expert. At most 4096 experts there.
DispatchPlan BuildDispatchPlan(ConstTensorView ids,  // [T, top_k] i32, contiguous
                               int num_experts, OpContext& context);

// out[t] += sum over choices j, in order, of weights[t][j] * y[row_of[t][j]]. On CUDA row_of is
// trusted: a row that y does not have reads wrong memory.
void Combine(ConstTensorView y,        // [R, H] f32, row stride free
             ConstTensorView row_of,   // [T, top_k] i32, contiguous
             ConstTensorView weights,  // [T, top_k] f32, contiguous
             TensorView out,           // [T, H] f32, row stride free, added to
             OpContext& context);

}  // namespace sluice::ops
