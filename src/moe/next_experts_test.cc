#include "moe/next_experts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "trace/synthesize.h"

namespace sluice {
namespace {

double Share(const NextExperts::Hits& hits) {
  return static_cast<double>(hits.foretold) / static_cast<double>(hits.needed);
}

TEST(NextExperts, LearnsWhatFollowsAndJudgesItself) {
  NextExperts next(2, 4, 1);
  const std::vector<int32_t> two = {2};
  const std::vector<int32_t> three = {3};
  EXPECT_EQ(std::ranges::count(next.Observe(0, two), 0.0), 4);
  EXPECT_EQ(next.hits(1).needed, 0u);  // nothing was known
  next.Observe(1, three);
  next.Observe(0, two);
  EXPECT_EQ(next.hits(0).needed, 0u);
  // Behind the last layer comes the first one.
  const std::span<const double> expected = next.Observe(1, three);
  EXPECT_EQ(std::ranges::max_element(expected) - expected.begin(), 2);
  EXPECT_EQ(next.hits(1).needed, 1u);
  EXPECT_EQ(next.hits(1).foretold, 1u);
  next.Observe(0, three);  // expert 2 was foretold
  EXPECT_EQ(next.hits(0).needed, 1u);
  EXPECT_EQ(next.hits(0).foretold, 0u);
}

TEST(NextExperts, TokensThatChangeAreNotTakenForTheSame) {
  NextExperts next(2, 4, 1);
  const std::vector<int32_t> one = {1};
  const std::vector<int32_t> two = {1, 3};
  next.Observe(0, one);
  next.Observe(1, two);  // another token joined: not learnt
  next.Observe(0, two);
  next.Observe(1, two);
  EXPECT_EQ(next.hits(1).needed, 0u);
}

TEST(NextExperts, AForecastCountsAllTokensOfALargeStep) {
  constexpr int kTokens = 3000;
  NextExperts next(2, 8, 2);
  std::vector<int32_t> ids;
  for (int i = 0; i < kTokens; ++i) ids.insert(ids.end(), {i % 4, 4 + i % 4});
  for (int step = 0; step < 3; ++step) {
    for (const int layer : {0, 1}) next.Observe(layer, ids);
  }
  const std::span<const double> expected = next.Observe(0, ids);
  double sum = 0;
  for (const double tokens : expected) {
    EXPECT_NEAR(tokens, kTokens / 4.0, kTokens / 40.0);
    sum += tokens;
  }
  EXPECT_NEAR(sum, 2.0 * kTokens, 1.0);
  EXPECT_EQ(next.hits(1).foretold, next.hits(1).needed);
}

// A chain over the layers is followed; where experts are drawn anew for each layer, a forecast is
// no better than chance.
TEST(NextExperts, FindsTheLinkBetweenLayers) {
  const SyntheticRun run{
      .num_layers = 4, .num_experts = 32, .top_k = 4, .sequences = 2, .steps = 1500};
  const auto play = [&](const SyntheticDesc& desc) {
    SyntheticBatches batches(desc, run);
    NextExperts next(run.num_layers, run.num_experts, run.top_k);
    RouterBatch batch;
    while (batches.NextBatch(batch)) {
      next.Observe(batch.layer, std::vector<int32_t>(batch.experts.begin(), batch.experts.end()));
    }
    return Share(next.hits(2));
  };
  EXPECT_GT(play({.kind = SyntheticKind::kMarkov, .parameter = 0.9, .seed = 1}), 0.8);
  // Two tokens of four experts each need about 7.5 of 32.
  EXPECT_NEAR(play({.kind = SyntheticKind::kUniform, .seed = 1}), 7.5 / 32, 0.03);
}

}  // namespace
}  // namespace sluice
