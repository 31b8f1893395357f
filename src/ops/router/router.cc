#include "ops/router/router.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "ops/common/checks.h"
#include "ops/router/router_kernels.h"

namespace sluice::ops {
namespace {

constexpr int64_t kTokenGrain = 8;
constexpr float kSmallest = -std::numeric_limits<float>::infinity();

float NanToSmallest(float value) {
  return std::isnan(value) ? kSmallest : value;
}

// The largest values so far, largest first, equal ones in the order in which they came: a
// candidate enters before the first that is strictly smaller.
class Best {
 public:
  // `ids` has room for `count` <= kMaxRouterTopK entries.
  Best(int count, int32_t* ids) : count_(count), ids_(ids) {}

  void Offer(float value, int32_t id) {
    value = NanToSmallest(value);
    if (filled_ == count_ && !(value > values_[count_ - 1])) return;
    int place = filled_ < count_ ? filled_++ : count_ - 1;
    for (; place > 0 && value > values_[place - 1]; --place) {
      values_[place] = values_[place - 1];
      ids_[place] = ids_[place - 1];
    }
    values_[place] = value;
    ids_[place] = id;
  }

 private:
  int count_;
  int filled_ = 0;
  float values_[kMaxRouterTopK];
  int32_t* ids_;
};

void ChooseByLogit(const float* logits, int num_experts, int top_k, int32_t* ids) {
  Best best(top_k, ids);
  for (int e = 0; e < num_experts; ++e) best.Offer(logits[e], e);
}

// The sum of the two largest of `count` >= 2 values.
float GroupScore(const float* values, int count) {
  float first = kSmallest;
  float second = kSmallest;
  for (int i = 0; i < count; ++i) {
    const float value = NanToSmallest(values[i]);
    if (value > first) {
      second = first;
      first = value;
    } else if (value > second) {
      second = value;
    }
  }
  return first + second;
}

// The top_groups best groups as flags, [num_groups].
void ChooseGroups(const RouterDesc& desc, const float* values, bool* chosen) {
  const int size = desc.num_experts / desc.num_groups;
  float scores[kMaxRouterExperts];
  for (int g = 0; g < desc.num_groups; ++g) {
    scores[g] = NanToSmallest(GroupScore(values + g * size, size));
    chosen[g] = false;
  }
  for (int n = 0; n < desc.top_groups; ++n) {
    int best = -1;
    for (int g = 0; g < desc.num_groups; ++g) {
      if (!chosen[g] && (best < 0 || scores[g] > scores[best])) best = g;
    }
    chosen[best] = true;
  }
}

void ChooseByBiasedSigmoid(const RouterDesc& desc, const float* logits, const float* bias,
                           int32_t* ids) {
  float values[kMaxRouterExperts];
  bool chosen[kMaxRouterExperts];
  for (int e = 0; e < desc.num_experts; ++e) {
    values[e] = RouterSigmoid(logits[e]) + (bias == nullptr ? 0.0f : bias[e]);
  }
  ChooseGroups(desc, values, chosen);
  const int size = desc.num_experts / desc.num_groups;
  Best best(desc.top_k, ids);
  for (int g = 0; g < desc.num_groups; ++g) {
    for (int e = g * size; chosen[g] && e < (g + 1) * size; ++e) best.Offer(values[e], e);
  }
}

constexpr int kExpTerms = 13;
constexpr std::array<double, kExpTerms> kInverseFactorials = [] {
  std::array<double, kExpTerms> values{1.0};
  double factorial = 1.0;
  for (int i = 1; i < kExpTerms; ++i) {
    factorial *= i;  // exact
    values[i] = 1.0 / factorial;
  }
  return values;
}();

// exp(x) for x in [-128, 0] as 2^n exp(r), |r| <= ln2 / 2, by the series to r^12 (the rest is below
// 2e-16). ln2 is split so that n times its first part is exact.
double ExpOfNegative(double x) {
  constexpr double kRoundToInteger = 0x1.8p52;
  constexpr double kLog2e = 0x1.71547652b82fep+0;
  constexpr double kLn2High = 0x1.62e42feep-1;
  constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
  const double n = (x * kLog2e + kRoundToInteger) - kRoundToInteger;
  const double r = (x - n * kLn2High) - n * kLn2Low;
  double sum = kInverseFactorials[kExpTerms - 1];
  for (int i = kExpTerms - 2; i >= 0; --i) sum = sum * r + kInverseFactorials[i];
  const auto bits = static_cast<uint64_t>(1023 + static_cast<int64_t>(n)) << 52;
  double power;
  std::memcpy(&power, &bits, sizeof(power));
  return sum * power;
}

}  // namespace

float RouterSigmoid(float x) {
  // exp(-128) is below f32's least number.
  const double e = ExpOfNegative(std::max(-128.0, -std::abs(static_cast<double>(x))));
  const double score = (x < 0.0f ? e : 1.0) / (1.0 + e);
  return std::isnan(x) ? x : static_cast<float>(score);
}

bool RouterSupports(const RouterDesc& desc) {
  const bool plain = desc.topk_norm > 0.0f && desc.num_experts >= 1 &&
                     desc.num_experts <= kMaxRouterExperts && desc.top_k >= 1 &&
                     desc.top_k <= std::min(kMaxRouterTopK, desc.num_experts);
  if (!plain || (desc.num_groups == 1 && desc.top_groups == 1)) return plain;
  if (desc.score != RouterScore::kSigmoid || desc.num_groups < 1) return false;
  const int size = desc.num_experts / desc.num_groups;
  return desc.num_experts % desc.num_groups == 0 && size >= 2 && desc.top_groups >= 1 &&
         desc.top_groups <= desc.num_groups && desc.top_groups * size >= desc.top_k;
}

cuda::RouterParams MakeRouterParams(const RouterDesc& desc, ConstTensorView logits,
                                    ConstTensorView bias, TensorView weights, TensorView ids,
                                    TensorView counts) {
  SLUICE_CHECK(RouterSupports(desc));
  CheckRank("router logits", logits, 2);
  const int64_t tokens = logits.dim(0);
  CheckTensor("router logits", logits, DType::kF32, {tokens, desc.num_experts});
  CheckTensor("router weights", weights, DType::kF32, {tokens, desc.top_k});
  CheckTensor("router ids", ids, DType::kI32, {tokens, desc.top_k});
  if (!counts.empty()) CheckTensor("router counts", counts, DType::kI32, {desc.num_experts});
  if (!bias.empty()) {
    CheckTensor("router bias", bias, DType::kF32, {desc.num_experts});
    SLUICE_CHECK(desc.score == RouterScore::kSigmoid);
  }
  return {.logits = logits.data<float>(),
          .logits_stride = logits.stride(0),
          .bias = bias.empty() ? nullptr : bias.data<float>(),
          .weights = weights.data<float>(),
          .weights_stride = weights.stride(0),
          .ids = ids.data<int32_t>(),
          .ids_stride = ids.stride(0),
          .counts = counts.empty() ? nullptr : counts.data<int32_t>(),
          .tokens = tokens,
          .num_experts = desc.num_experts,
          .top_k = desc.top_k,
          .softmax = desc.score == RouterScore::kSoftmax,
          .by_logit = bias.empty() && desc.num_groups == desc.top_groups,
          .num_groups = desc.num_groups,
          .top_groups = desc.top_groups,
          .renormalize_topk = desc.renormalize_topk,
          .topk_norm = desc.topk_norm,
          .scale = desc.scale};
}

void Router(const RouterDesc& desc, ConstTensorView logits, ConstTensorView bias,
            TensorView weights, TensorView ids, TensorView counts, OpContext& context) {
  const cuda::RouterParams params = MakeRouterParams(desc, logits, bias, weights, ids, counts);
  if constexpr (kCudaBuilt) {
    if (context.OnCuda()) {
      cuda::Router(params, *context.cuda);
      return;
    }
  }
  const int64_t tokens = params.tokens;
  const float* biases = params.bias;
  const auto kernel = context.reference ? &reference::RouterWeights
                                        : SLUICE_TIER_FUNCTION(context.tier, RouterWeights);
  context.pool.ParallelFor(tokens, kTokenGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const float* row = logits.data<float>() + t * logits.stride(0);
      int32_t* row_ids = ids.data<int32_t>() + t * ids.stride(0);
      if (params.by_logit) {
        ChooseByLogit(row, desc.num_experts, desc.top_k, row_ids);
      } else {
        ChooseByBiasedSigmoid(desc, row, biases, row_ids);
      }
      kernel({.logits = row,
              .num_experts = desc.num_experts,
              .ids = row_ids,
              .weights = weights.data<float>() + t * weights.stride(0),
              .top_k = desc.top_k,
              .softmax = desc.score == RouterScore::kSoftmax,
              .renormalize_topk = desc.renormalize_topk,
              .topk_norm = desc.topk_norm,
              .scale = desc.scale});
    }
  });
  if (counts.empty()) return;
  int32_t* count = counts.data<int32_t>();
  for (int64_t t = 0; t < tokens; ++t) {
    const int32_t* row_ids = ids.data<int32_t>() + t * ids.stride(0);
    for (int j = 0; j < desc.top_k; ++j) ++count[row_ids[j]];
  }
}

}  // namespace sluice::ops
