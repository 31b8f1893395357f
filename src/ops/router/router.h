#pragma once

#include "device/tensor.h"
#include "ops/common/op_context.h"

namespace sluice::ops {

enum class RouterScore {
  kSoftmax,  // over all experts, before the choice
  kSigmoid,  // each expert by itself
};

struct RouterDesc {
  int num_experts;
  int top_k;
  RouterScore score = RouterScore::kSoftmax;
  bool renormalize_topk = true;  // divide the chosen scores by their sum
  float scale = 1.0f;            // multiplies the weights last
};

// Whether Router can run `desc`: 1 to 1024 experts, 1 <= top_k <= min(64, num_experts).
bool RouterSupports(const RouterDesc& desc);

// Chooses top_k experts for each token. Both scores grow with the logit, so the choice is made on
// the logits: it is exact, the same on every tier and backend, and equal logits go to the lower
// expert id. A NaN logit counts as the smallest.
void Router(const RouterDesc& desc,
            ConstTensorView logits,  // [T, num_experts] f32, row stride free
            TensorView weights,      // [T, top_k] f32, highest score first
            TensorView ids,          // [T, top_k] i32, the experts of `weights`
            TensorView counts,       // [num_experts] i32, tokens of each expert; overwritten
            OpContext& context);

}  // namespace sluice::ops
