#pragma once

#include "device/tensor.h"
#include "ops/common/op_context.h"

namespace sluice::ops {

// out[i] = x[rows[i]]: the rows of a step that logits are wanted of. A row outside [0, T) fails a
// check before anything is written; on CUDA, where the host does not look at `rows`, that row of
// out becomes NaN.
void TakeRows(ConstTensorView x,     // [T, H] f32, row stride free
              ConstTensorView rows,  // [n] i32
              TensorView out,        // [n, H] f32, row stride free; must not overlap x
              OpContext& context);

}  // namespace sluice::ops
