#include "study/coactivation.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "study/testing.h"
#include "trace/synthesize.h"

namespace sluice {
namespace {

void ExpectPair(const ExpertPair& pair, int layer, int next_layer, int first, int second,
                uint64_t tokens, double lift) {
  EXPECT_EQ(pair.layer, layer);
  EXPECT_EQ(pair.next_layer, next_layer);
  EXPECT_EQ(pair.first, first);
  EXPECT_EQ(pair.second, second);
  EXPECT_EQ(pair.tokens, tokens);
  EXPECT_DOUBLE_EQ(pair.lift, lift);
}

TEST(CoActivation, CountsPairs) {
  CoActivation pairs({.num_layers = 6, .num_experts = 4, .top_k = 2});
  pairs.Add(MakeBatch(0, 1, {{2, 0}, {0, 2}, {1, 3}, {0, 1}}));
  pairs.Add(MakeBatch(0, 5, {{3, 1}, {3, 0}, {2, 1}, {0, 2}}));
  const std::vector<ExpertPair> within = pairs.MostWithin(2);
  ASSERT_EQ(within.size(), 2u);
  // Of four tokens three chose 0 and two chose 2: 1.5 would have chosen both.
  ExpectPair(within[0], 1, 1, 0, 2, 2, 2 / 1.5);
  ExpectPair(within[1], 1, 1, 0, 1, 1, 1 / 1.5);
  const std::vector<ExpertPair> across = pairs.MostAcross(3);
  ASSERT_EQ(across.size(), 3u);
  // Tokens with 0 in layer 1 and 0 in layer 5: the second and the fourth, of three and of two.
  ExpectPair(across[0], 1, 5, 0, 0, 2, 2 / 1.5);
  ExpectPair(across[1], 1, 5, 0, 3, 2, 2 / 1.5);
  ExpectPair(across[2], 1, 5, 1, 2, 2, 2 / 1.0);
  EXPECT_EQ(pairs.FollowedShare(), 1.0);
  EXPECT_EQ(pairs.MostWithin(1000).size(), 7u);
}

TEST(CoActivation, FollowsOnlyTheSameTokensInOneStep) {
  CoActivation pairs({.num_layers = 3, .num_experts = 4, .top_k = 1});
  pairs.Add(MakeBatch(0, 0, {{1}, {2}}));
  pairs.Add(MakeBatch(0, 1, {{1}}));  // fewer tokens
  pairs.Add(MakeBatch(1, 2, {{1}}));  // another step
  EXPECT_TRUE(pairs.MostAcross(9).empty());
  EXPECT_EQ(pairs.FollowedShare(), 0.0);
  EXPECT_EQ(CoActivation({.num_layers = 1, .num_experts = 1, .top_k = 1}).FollowedShare(), 1.0);
}

TEST(CoActivation, SeesTheLinkBetweenLayers) {
  const auto lift = [](double p) {
    SyntheticBatches source(
        {.kind = SyntheticKind::kMarkov, .parameter = p},
        {.num_layers = 2, .num_experts = 16, .top_k = 2, .sequences = 50, .steps = 400});
    CoActivation pairs(source.header());
    RouterBatch batch;
    while (source.NextBatch(batch)) pairs.Add(batch);
    double sum = 0.0;
    for (const ExpertPair& pair : pairs.MostAcross(10)) sum += pair.lift / 10;
    return sum;
  };
  EXPECT_NEAR(lift(0.0), 1.0, 0.1);
  EXPECT_GT(lift(0.8), 1.5);
}

TEST(CoActivation, RefusesWhatItCannotKeep) {
  EXPECT_THROW(CoActivation({.num_layers = 64, .num_experts = 2048, .top_k = 1}), Error);
}

}  // namespace
}  // namespace sluice
