#include "ops/router/router.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "ops/common/test_support.h"

namespace sluice::ops {
namespace {

class RouterTest : public OpTest {
 protected:
  // Runs the router and compares with a full sort in double precision.
  void Check(const RouterDesc& desc, const Tensor& logits) {
    const int64_t tokens = logits.shape()[0];
    Guarded weights(DType::kF32, {tokens, desc.top_k});
    Guarded ids(DType::kI32, {tokens, desc.top_k});
    Guarded counts(DType::kI32, {desc.num_experts});
    Router(desc, logits, weights, ids, counts, context());
    std::vector<double> want;
    std::vector<int32_t> want_counts(desc.num_experts, 0);
    for (int64_t t = 0; t < tokens; ++t) {
      const float* row = logits.data<float>() + t * desc.num_experts;
      std::vector<int32_t> order(desc.num_experts);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return row[a] > row[b]; });
      AppendWeights(desc, row, order, want);
      for (int j = 0; j < desc.top_k; ++j) {
        ASSERT_EQ(ids.data<int32_t>()[t * desc.top_k + j], order[j]) << "token " << t;
        ++want_counts[order[j]];
      }
    }
    ExpectRelative(weights, want, 2e-6);
    ids.ExpectGuardsIntact();
    counts.ExpectGuardsIntact();
    for (int e = 0; e < desc.num_experts; ++e) {
      EXPECT_EQ(counts.data<int32_t>()[e], want_counts[e]);
    }
  }

 private:
  static void AppendWeights(const RouterDesc& desc, const float* row,
                            const std::vector<int32_t>& order, std::vector<double>& want) {
    double total = 0;
    for (int e = 0; e < desc.num_experts; ++e) total += std::exp(static_cast<double>(row[e]));
    const auto score = [&](int e) {
      const double logit = row[e];
      return desc.score == RouterScore::kSoftmax ? std::exp(logit) / total
                                                 : 1.0 / (1.0 + std::exp(-logit));
    };
    double chosen = 0;
    for (int j = 0; j < desc.top_k; ++j) chosen += score(order[j]);
    for (int j = 0; j < desc.top_k; ++j) {
      want.push_back(score(order[j]) / (desc.renormalize_topk ? chosen : 1.0) * desc.scale);
    }
  }
};

TEST_P(RouterTest, MatchesAFullSort) {
  std::mt19937 random(1);
  for (const int experts : {1, 8, 16, 60, 64, 128, 256}) {
    for (const int top_k : {1, 2, 4, 8}) {
      if (top_k > experts) continue;
      for (const int64_t tokens : {0, 1, 2, 7, 8, 64, 1000}) {
        if (tokens * experts > 100'000) continue;
        const RouterDesc desc{.num_experts = experts,
                              .top_k = top_k,
                              .score = top_k == 2 ? RouterScore::kSigmoid : RouterScore::kSoftmax,
                              .renormalize_topk = tokens % 2 == 0,
                              .scale = top_k == 4 ? 2.5f : 1.0f};
        SCOPED_TRACE(::testing::Message() << experts << " " << top_k << " " << tokens);
        Check(desc, RandomTensor({tokens, experts}, random, 6.0f));
      }
    }
  }
}

TEST_P(RouterTest, TiesGoToTheLowerExpert) {
  std::mt19937 random(2);
  Tensor logits(DType::kF32, {64, 60});
  // Few distinct values, so that every row has many ties.
  for (int64_t i = 0; i < 64 * 60; ++i) logits.data<float>()[i] = static_cast<float>(random() % 3);
  Check({.num_experts = 60, .top_k = 8}, logits);
}

TEST_P(RouterTest, NanLogitsStillGiveValidExperts) {
  Tensor logits(DType::kF32, {1, 8});
  std::fill_n(logits.data<float>(), 8, std::nanf(""));
  logits.data<float>()[5] = 1.0f;
  Guarded weights(DType::kF32, {1, 2});
  Guarded ids(DType::kI32, {1, 2});
  Guarded counts(DType::kI32, {8});
  Router({.num_experts = 8, .top_k = 2}, logits, weights, ids, counts, context());
  EXPECT_EQ(ids.data<int32_t>()[0], 5);
  EXPECT_EQ(ids.data<int32_t>()[1], 0);
}

TEST_P(RouterTest, SaysWhatItSupports) {
  EXPECT_TRUE(RouterSupports({.num_experts = 256, .top_k = 8}));
  EXPECT_FALSE(RouterSupports({.num_experts = 4, .top_k = 5}));
  EXPECT_FALSE(RouterSupports({.num_experts = 4, .top_k = 0}));
  EXPECT_FALSE(RouterSupports({.num_experts = 1025, .top_k = 8}));
  EXPECT_FALSE(RouterSupports({.num_experts = 512, .top_k = 65}));
}

SLUICE_INSTANTIATE_OP_TEST(RouterTest);

}  // namespace
}  // namespace sluice::ops
