#pragma once

#include "device/tensor.h"
#include "ops/common/op_context.h"

namespace sluice::ops {

// Rotary position embedding (arXiv:2104.09864).
struct RopeDesc {
  double theta;    // base of the frequencies
  int rotary_dim;  // leading dimensions of a head that rotate; even
};

// Fills the cosines and sines that all layers of a step share. Frequencies and angles are rounded
// to f32 where transformers rounds them, so that far positions turn by the same angle.
void RopeAngles(const RopeDesc& desc,
                ConstTensorView positions,  // [T] i32, absolute
                TensorView cos_sin,         // [T, 2, rotary_dim / 2] f32: cosines, then sines
                OpContext& context);

// Rotates the first rotary_dim dimensions of each head in place, dimension i paired with
// i + rotary_dim / 2 (half-split, the NeoX form).
void Rope(ConstTensorView cos_sin,  // [T, 2, rotary_dim / 2] f32, contiguous
          TensorView x,             // [T, heads, head_dim] f32, token and head strides free
          OpContext& context);

}  // namespace sluice::ops
