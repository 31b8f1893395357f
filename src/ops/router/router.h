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
  // Experts [g * num_experts / num_groups, (g + 1) * num_experts / num_groups) are group g. Only
  // experts of the top_groups best groups are chosen from (arXiv:2412.19437, section 2.1.2).
  int num_groups = 1;
  int top_groups = 1;
  bool renormalize_topk = true;  // divide the chosen scores by their norm
  float topk_norm = 1.0f;        // which one: the p-norm of this p, above 0; 1 is the sum
  float scale = 1.0f;            // multiplies the weights last
};

// Whether Router can run `desc`: topk_norm above 0, 1 to 1024 experts, 1 <= top_k <= min(64,
// num_experts); several groups only of sigmoid scores, equal in size, of two experts at least, and
// top_groups of them hold top_k experts.
bool RouterSupports(const RouterDesc& desc);

// Chooses top_k experts for each token; the choice is the same on every tier and backend, and
// equal values go to the lower expert id. A NaN counts as the smallest.
//
// Without bias and groups the choice is made on the logits, with which both scores grow: it is
// exact. With either, it is made on sigmoid(logit) + bias, the sigmoid being RouterSigmoid; a group
// is as good as the sum of its two best values, and equal groups go to the lower one. The weights
// are the scores without the bias.
void Router(const RouterDesc& desc,
            ConstTensorView logits,  // [T, num_experts] f32, row stride free
            ConstTensorView bias,    // [num_experts] f32, for sigmoid scores; or empty()
            TensorView weights,      // [T, top_k] f32, the expert chosen first at the front
            TensorView ids,          // [T, top_k] i32, the experts of `weights`
            TensorView counts,       // [num_experts] i32, to which the tokens of each expert are
                                     // added; or empty()
            OpContext& context);

// 1 / (1 + exp(-x)) rounded to f32. Made of additions, multiplications and a division of doubles,
// each rounded by IEEE 754, so that every machine gives the same bits: the choice rests on them.
float RouterSigmoid(float x);

}  // namespace sluice::ops
