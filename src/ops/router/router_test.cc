#include "ops/router/router.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "ops/common/test_support.h"

namespace sluice::ops {
namespace {

constexpr int32_t kCountedBefore = 3;

class RouterTest : public OpTest {
 protected:
  // Runs the router and compares with a full sort by the values that the choice rests on.
  void Check(const RouterDesc& desc, const Tensor& logits, const Tensor* bias = nullptr) {
    const int64_t tokens = logits.shape()[0];
    Guarded weights(DType::kF32, {tokens, desc.top_k});
    Guarded ids(DType::kI32, {tokens, desc.top_k});
    Guarded counts(DType::kI32, {desc.num_experts});
    std::fill_n(counts.view().data<int32_t>(), desc.num_experts, kCountedBefore);
    Router(desc, logits, bias == nullptr ? ConstTensorView() : bias->view(), weights, ids, counts,
           context());
    std::vector<double> want;
    std::vector<int32_t> want_counts(desc.num_experts, kCountedBefore);
    for (int64_t t = 0; t < tokens; ++t) {
      const float* row = logits.data<float>() + t * desc.num_experts;
      const std::vector<int32_t> order =
          Order(desc, row, bias == nullptr ? nullptr : bias->data<float>());
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
  // Experts of the best groups, best first, equal ones by id.
  static std::vector<int32_t> Order(const RouterDesc& desc, const float* row, const float* bias) {
    std::vector<float> values(row, row + desc.num_experts);
    const int size = desc.num_experts / desc.num_groups;
    for (int e = 0; e < desc.num_experts; ++e) {
      if (bias != nullptr || desc.num_groups > 1) values[e] = RouterSigmoid(row[e]);
      if (bias != nullptr) values[e] += bias[e];
    }
    std::vector<float> group_scores;
    for (int g = 0; g < desc.num_groups && desc.num_groups > 1; ++g) {
      std::vector<float> of_group(values.begin() + g * size, values.begin() + (g + 1) * size);
      std::sort(of_group.begin(), of_group.end(), std::greater<>());
      group_scores.push_back(of_group[0] + of_group[1]);
    }
    std::vector<int> groups(desc.num_groups);
    std::iota(groups.begin(), groups.end(), 0);
    std::stable_sort(groups.begin(), groups.end(), [&](int a, int b) {
      return !group_scores.empty() && group_scores[a] > group_scores[b];
    });
    groups.resize(desc.top_groups);
    std::sort(groups.begin(), groups.end());
    std::vector<int32_t> order;
    for (const int g : groups) {
      for (int e = g * size; e < (g + 1) * size; ++e) order.push_back(e);
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return values[a] > values[b]; });
    return order;
  }

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
    const double p = desc.topk_norm;
    for (int j = 0; j < desc.top_k; ++j) chosen += std::pow(score(order[j]), p);
    chosen = std::pow(chosen, 1.0 / p);
    for (int j = 0; j < desc.top_k; ++j) {
      want.push_back(score(order[j]) / (desc.renormalize_topk ? chosen : 1.0) * desc.scale);
    }
  }
};

TEST_P(RouterTest, MatchesAFullSort) {
  std::mt19937 random(1);
  for (const int experts : {1, 8, 16, 60, 64, 128, 256, 1024}) {
    for (const int top_k : {1, 2, 4, 8, 64}) {
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

struct Groups {
  int experts, num_groups, top_groups, top_k;
};

constexpr Groups kGroups[] = {{8, 1, 1, 2},   {8, 4, 2, 4},    {16, 4, 2, 4},     {60, 5, 3, 6},
                              {64, 8, 4, 8},  {64, 32, 8, 16}, {128, 4, 4, 6},    {160, 8, 3, 6},
                              {256, 1, 1, 8}, {256, 8, 4, 8},  {512, 256, 40, 64}};

TEST_P(RouterTest, DividesByTheNormThatIsAsked) {
  std::mt19937 random(8);
  for (const float norm : {0.5f, 2.0f, 3.0f}) {
    SCOPED_TRACE(norm);
    Check({.num_experts = 16, .top_k = 4, .topk_norm = norm}, RandomTensor({7, 16}, random, 6.0f));
  }
}

TEST_P(RouterTest, BiasAndGroupsDecideTheChoiceAndNotTheWeights) {
  std::mt19937 random(3);
  for (const Groups& groups : kGroups) {
    for (const int64_t tokens : {0, 1, 7, 200}) {
      for (const bool biased : {true, false}) {
        SCOPED_TRACE(::testing::Message() << groups.experts << " in " << groups.num_groups << " "
                                          << tokens << (biased ? " biased" : ""));
        const Tensor bias = RandomTensor({groups.experts}, random, 0.6f);
        Check({.num_experts = groups.experts,
               .top_k = groups.top_k,
               .score = RouterScore::kSigmoid,
               .num_groups = groups.num_groups,
               .top_groups = groups.top_groups,
               .renormalize_topk = tokens != 7,
               .scale = 2.5f},
              RandomTensor({tokens, groups.experts}, random, 6.0f), biased ? &bias : nullptr);
      }
    }
  }
}

TEST_P(RouterTest, TiesOfBiasedScoresGoToTheLowerGroupAndExpert) {
  std::mt19937 random(4);
  const Tensor bias = [] {
    Tensor values = HostTensor(DType::kF32, {64});
    for (int e = 0; e < 64; ++e) values.data<float>()[e] = e % 3 == 0 ? 0.25f : -0.5f;
    return values;
  }();
  Tensor logits = HostTensor(DType::kF32, {64, 64});
  for (int64_t i = 0; i < 64 * 64; ++i) logits.data<float>()[i] = static_cast<float>(random() % 2);
  Check({.num_experts = 64,
         .top_k = 8,
         .score = RouterScore::kSigmoid,
         .num_groups = 8,
         .top_groups = 3},
        logits, &bias);
}

TEST_P(RouterTest, TiesGoToTheLowerExpert) {
  std::mt19937 random(2);
  Tensor logits = HostTensor(DType::kF32, {64, 60});
  // Few distinct values, so that every row has many ties.
  for (int64_t i = 0; i < 64 * 60; ++i) logits.data<float>()[i] = static_cast<float>(random() % 3);
  Check({.num_experts = 60, .top_k = 8}, logits);
}

TEST_P(RouterTest, NanLogitsStillGiveValidExperts) {
  Tensor logits = HostTensor(DType::kF32, {1, 8});
  std::fill_n(logits.data<float>(), 8, std::nanf(""));
  logits.data<float>()[5] = 1.0f;
  Guarded weights(DType::kF32, {1, 2});
  Guarded ids(DType::kI32, {1, 2});
  Router({.num_experts = 8, .top_k = 2}, logits, {}, weights, ids, {}, context());
  EXPECT_EQ(ids.data<int32_t>()[0], 5);
  EXPECT_EQ(ids.data<int32_t>()[1], 0);
}

TEST_P(RouterTest, NanScoresAndBiasesCountAsTheSmallest) {
  Tensor logits = HostTensor(DType::kF32, {2, 8});
  std::fill_n(logits.data<float>(), 16, std::nanf(""));
  logits.data<float>()[5] = -100.0f;
  logits.data<float>()[6] = 1.0f;
  Tensor bias = HostTensor(DType::kF32, {8});
  std::fill_n(bias.data<float>(), 8, 0.0f);
  bias.data<float>()[6] = std::nanf("");
  Guarded weights(DType::kF32, {2, 3});
  Guarded ids(DType::kI32, {2, 3});
  const RouterDesc desc{.num_experts = 8,
                        .top_k = 3,
                        .score = RouterScore::kSigmoid,
                        .num_groups = 4,
                        .top_groups = 2};
  Router(desc, logits, bias, weights, ids, {}, context());
  // No group has two numbers, so the first two groups hold the choice.
  for (int j = 0; j < 6; ++j) EXPECT_EQ(ids.data<int32_t>()[j], j % 3);
  Router({.num_experts = 8, .top_k = 3, .score = RouterScore::kSigmoid}, logits, bias, weights, ids,
         {}, context());
  EXPECT_EQ(ids.data<int32_t>()[0], 5);
  EXPECT_EQ(ids.data<int32_t>()[1], 0);
}

TEST_P(RouterTest, ScoresThatAreAllZeroGiveZeroWeights) {
  Tensor logits = HostTensor(DType::kF32, {1, 8});
  std::fill_n(logits.data<float>(), 8, -200.0f);
  Guarded weights(DType::kF32, {1, 2});
  Guarded ids(DType::kI32, {1, 2});
  Router({.num_experts = 8, .top_k = 2, .score = RouterScore::kSigmoid}, logits, {}, weights, ids,
         {}, context());
  EXPECT_EQ(weights.data<float>()[0], 0.0f);
  EXPECT_EQ(weights.data<float>()[1], 0.0f);
}

TEST(RouterSigmoid, IsTheNearestFloat) {
  std::mt19937 random(5);
  std::uniform_real_distribution<float> uniform(-80.0f, 80.0f);
  int off = 0;
  for (int i = 0; i < 100'000; ++i) {
    const float x = i % 2 == 0 ? uniform(random) : uniform(random) / 20.0f;
    const double exact = 1.0 / (1.0 + std::exp(-static_cast<double>(x)));
    if (RouterSigmoid(x) != static_cast<float>(exact)) ++off;
    EXPECT_NEAR(RouterSigmoid(x) / exact, 1.0, 1e-7) << x;
  }
  // A double's last bit decides where two floats are equally near: hardly ever.
  EXPECT_LE(off, 2);
  EXPECT_EQ(RouterSigmoid(0.0f), 0.5f);
  EXPECT_EQ(RouterSigmoid(1e30f), 1.0f);
  EXPECT_EQ(RouterSigmoid(-1e30f), 0.0f);
  EXPECT_TRUE(std::isnan(RouterSigmoid(std::nanf(""))));
}

TEST_P(RouterTest, SaysWhatItSupports) {
  EXPECT_TRUE(RouterSupports({.num_experts = 256, .top_k = 8}));
  EXPECT_FALSE(RouterSupports({.num_experts = 4, .top_k = 5}));
  EXPECT_FALSE(RouterSupports({.num_experts = 4, .top_k = 0}));
  EXPECT_FALSE(RouterSupports({.num_experts = 1025, .top_k = 8}));
  EXPECT_FALSE(RouterSupports({.num_experts = 512, .top_k = 65}));
  const auto grouped = [](int experts, int groups, int top_groups, int top_k,
                          RouterScore score = RouterScore::kSigmoid) {
    return RouterSupports({.num_experts = experts,
                           .top_k = top_k,
                           .score = score,
                           .num_groups = groups,
                           .top_groups = top_groups});
  };
  EXPECT_TRUE(grouped(256, 8, 4, 8));
  EXPECT_FALSE(grouped(256, 8, 4, 8, RouterScore::kSoftmax));
  EXPECT_FALSE(grouped(60, 8, 4, 8));    // groups of unequal size
  EXPECT_FALSE(grouped(8, 8, 4, 4));     // groups of one
  EXPECT_FALSE(grouped(256, 8, 9, 8));   // more groups than there are
  EXPECT_FALSE(grouped(256, 64, 1, 8));  // fewer experts than are chosen
  EXPECT_FALSE(grouped(256, 0, 0, 8));
}

SLUICE_INSTANTIATE_OP_TEST(RouterTest);

}  // namespace
}  // namespace sluice::ops
