#pragma once

#include <vector>

#include "device/dtype.h"
#include "device/tensor.h"
#include "ops/common/op_context.h"

namespace sluice::ops {

enum class RopeScaling {
  kNone,
  kLinear,      // every frequency divided by `factor` (arXiv:2306.15595)
  kYarn,        // slow frequencies divided, fast ones kept, a ramp between (arXiv:2309.00071)
  kWavelength,  // the same by wavelength, with a smooth passage (arXiv:2407.21783)
};

// Which two dimensions of a head turn together.
enum class RopePairing {
  kHalves,    // i and i + rotary_dim / 2, the NeoX form
  kAdjacent,  // 2i and 2i + 1, as the paper has it
};

// Rotary position embedding (arXiv:2104.09864).
struct RopeDesc {
  double theta = 10000.0;  // base of the frequencies
  int rotary_dim = 0;      // leading dimensions of a head that rotate; even
  RopePairing pairing = RopePairing::kHalves;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;            // by which the context was stretched
  double attention_factor = 1.0;  // multiplies cosines and sines
  int original_positions = 0;     // context before stretching; kYarn and kWavelength
  // kYarn: a frequency is kept that turns more than beta_fast times within the original context,
  // and divided when it turns less than beta_slow times.
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  bool truncate = true;  // rounds the ramp's ends outwards to whole dimensions
  // kWavelength: a wavelength is kept below original_positions / high_freq_factor and stretched
  // past original_positions / low_freq_factor.
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  // What the frequencies are rounded to at last: kF32 is no rounding.
  DType frequency_dtype = DType::kF32;
};

// The angle by which each pair of dimensions turns from one position to the next, scaled; each
// operation rounded to f32 where transformers rounds it, so that far positions turn by the same
// angle. [rotary_dim / 2]
std::vector<float> RopeFrequencies(const RopeDesc& desc);

// Fills the cosines and sines that all layers of a step share. Angles are rounded to f32 as the
// frequencies are. On CUDA rotary_dim is at most 512.
void RopeAngles(const RopeDesc& desc,
                ConstTensorView positions,  // [T] i32, absolute
                TensorView cos_sin,         // [T, 2, rotary_dim / 2] f32: cosines, then sines
                OpContext& context);

// Rotates the first rotary_dim dimensions of each head in place, pair i by angle i.
void Rope(RopePairing pairing,
          ConstTensorView cos_sin,  // [T, 2, rotary_dim / 2] f32, contiguous
          TensorView x,             // [T, heads, head_dim] f32, token and head strides free
          OpContext& context);

}  // namespace sluice::ops
