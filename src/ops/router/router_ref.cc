#include <algorithm>
#include <cmath>

#include "ops/router/router_kernels.h"

namespace sluice::ops::reference {

void RouterWeights(const RouterRowParams& params) {
  double scores[kMaxRouterTopK];
  double total = 1.0;
  const double largest = params.logits[params.ids[0]];
  if (params.softmax) {
    total = 0.0;
    for (int64_t e = 0; e < params.num_experts; ++e) total += std::exp(params.logits[e] - largest);
  }
  double chosen = 0.0;
  for (int j = 0; j < params.top_k; ++j) {
    const double logit = params.logits[params.ids[j]];
    scores[j] = params.softmax ? std::exp(logit - largest) / total : 1.0 / (1.0 + std::exp(-logit));
    chosen += std::pow(scores[j], params.topk_norm);
  }
  const double norm = std::pow(chosen, 1.0 / params.topk_norm);
  const double sum = params.softmax ? norm : norm + static_cast<double>(kSigmoidSumFloor);
  const double factor = (params.renormalize_topk ? 1.0 / sum : 1.0) * params.scale;
  for (int j = 0; j < params.top_k; ++j) params.weights[j] = static_cast<float>(scores[j] * factor);
}

}  // namespace sluice::ops::reference
