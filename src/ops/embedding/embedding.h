#pragma once

#include "device/tensor.h"
#include "ops/common/op_context.h"

namespace sluice::ops {

// out[t] = table[ids[t]], widened to f32. An id outside [0, V) fails a check before anything is
// written; on CUDA, where the host does not look at ids, that token's row becomes NaN.
void Embedding(ConstTensorView table,  // [V, H] f32 | bf16 | f16
               ConstTensorView ids,    // [T] i32
               TensorView out,         // [T, H] f32, row stride free
               OpContext& context);

}  // namespace sluice::ops
