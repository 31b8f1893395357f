#include "ops/common/cpu/vec_math.h"
#include "ops/router/router_kernels.h"

namespace sluice::ops::SLUICE_TIER {
namespace {

// Sum over all experts of exp(logit - largest).
float SoftmaxTotal(const float* logits, int64_t count, float largest) {
  const Vec shift = Vec::Set1(largest);
  Vec sum = Vec::Zero();
  int64_t e = 0;
  for (; e + Vec::kLanes <= count; e += Vec::kLanes) {
    sum = Vec::Add(sum, Exp(Vec::Sub(Vec::Load(logits + e), shift)));
  }
  float total = Vec::ReduceAdd(sum);
  for (; e < count; ++e) total += ExpOne(logits[e] - largest);
  return total;
}

// The norm of the chosen scores.
float Norm(const RouterRowParams& params) {
  float sum = 0.0f;
  if (params.topk_norm == 1.0f) {
    for (int j = 0; j < params.top_k; ++j) sum += params.weights[j];
    return sum;
  }
  for (int j = 0; j < params.top_k; ++j) {
    sum += __builtin_powf(params.weights[j], params.topk_norm);
  }
  return __builtin_powf(sum, 1.0f / params.topk_norm);
}

}  // namespace

void RouterWeights(const RouterRowParams& params) {
  const float largest = params.logits[params.ids[0]];
  const float total =
      params.softmax ? SoftmaxTotal(params.logits, params.num_experts, largest) : 1.0f;
  for (int j = 0; j < params.top_k; ++j) {
    const float logit = params.logits[params.ids[j]];
    params.weights[j] = params.softmax ? ExpOne(logit - largest) / total : SigmoidOne(logit);
  }
  const float sum = params.softmax ? Norm(params) : Norm(params) + kSigmoidSumFloor;
  const float divisor = params.renormalize_topk ? sum : 1.0f;
  for (int j = 0; j < params.top_k; ++j) {
    params.weights[j] = params.weights[j] / divisor * params.scale;
  }
}

}  // namespace sluice::ops::SLUICE_TIER
