#include "ops/router/router.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/common/checks.h"
#include "ops/router/router_kernels.h"

namespace sluice::ops {
namespace {

constexpr int64_t kTokenGrain = 8;

// The top_k largest logits, largest first, equal ones by ascending id. A candidate enters before
// the first that is strictly smaller, so an earlier id keeps its place among equals.
void ChooseExperts(const float* logits, int num_experts, int top_k, int32_t* ids) {
  float best[kMaxRouterTopK];
  int filled = 0;
  for (int e = 0; e < num_experts; ++e) {
    const float logit = std::isnan(logits[e]) ? -std::numeric_limits<float>::infinity() : logits[e];
    if (filled == top_k && !(logit > best[top_k - 1])) continue;
    int place = filled < top_k ? filled++ : top_k - 1;
    for (; place > 0 && logit > best[place - 1]; --place) {
      best[place] = best[place - 1];
      ids[place] = ids[place - 1];
    }
    best[place] = logit;
    ids[place] = e;
  }
}

}  // namespace

bool RouterSupports(const RouterDesc& desc) {
  return desc.num_experts >= 1 && desc.num_experts <= kMaxRouterExperts && desc.top_k >= 1 &&
         desc.top_k <= std::min(kMaxRouterTopK, desc.num_experts);
}

void Router(const RouterDesc& desc, ConstTensorView logits, TensorView weights, TensorView ids,
            TensorView counts, OpContext& context) {
  SLUICE_CHECK(RouterSupports(desc));
  CheckRank("router logits", logits, 2);
  const int64_t tokens = logits.dim(0);
  CheckTensor("router logits", logits, DType::kF32, {tokens, desc.num_experts});
  CheckTensor("router weights", weights, DType::kF32, {tokens, desc.top_k});
  CheckTensor("router ids", ids, DType::kI32, {tokens, desc.top_k});
  CheckTensor("router counts", counts, DType::kI32, {desc.num_experts});
  const auto kernel = context.reference ? &reference::RouterWeights
                                        : SLUICE_TIER_FUNCTION(context.tier, RouterWeights);
  context.pool.ParallelFor(tokens, kTokenGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const float* row = logits.data<float>() + t * logits.stride(0);
      int32_t* row_ids = ids.data<int32_t>() + t * ids.stride(0);
      ChooseExperts(row, desc.num_experts, desc.top_k, row_ids);
      kernel({.logits = row,
              .num_experts = desc.num_experts,
              .ids = row_ids,
              .weights = weights.data<float>() + t * weights.stride(0),
              .top_k = desc.top_k,
              .softmax = desc.score == RouterScore::kSoftmax,
              .renormalize_topk = desc.renormalize_topk,
              .scale = desc.scale});
    }
  });
  int32_t* count = counts.data<int32_t>();
  std::fill(count, count + desc.num_experts, 0);
  for (int64_t t = 0; t < tokens; ++t) {
    const int32_t* row_ids = ids.data<int32_t>() + t * ids.stride(0);
    for (int j = 0; j < desc.top_k; ++j) ++count[row_ids[j]];
  }
}

}  // namespace sluice::ops
