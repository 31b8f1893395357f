#include "study/placement_replay.h"

#include <gtest/gtest.h>

#include "study/testing.h"

namespace sluice {
namespace {

ExpertMap Map(int experts, std::vector<std::vector<int>> ranks) {
  return {.num_experts = experts, .ranks = std::move(ranks)};
}

TEST(PlacementReplay, WaitsForTheSlowestRank) {
  PlacementReplay replay({{.name = "a", .layers = {Map(4, {{0, 1}, {2, 3}})}},
                          {.name = "b", .layers = {Map(4, {{0, 2}, {1, 3}})}}},
                         {.weights_s = 0.0, .token_s = 1.0});
  replay.Add(MakeBatch(0, 0, {{0, 1}, {0, 1}, {0, 3}}));
  replay.Add(MakeBatch(1, 0, {{2, 3}}));
  const std::vector<PlacementCost> costs = replay.Costs();
  EXPECT_DOUBLE_EQ(costs[0].expert_s, (5 + 2) / 2.0);
  EXPECT_DOUBLE_EQ(costs[1].expert_s, (3 + 1) / 2.0);
  for (const PlacementCost& cost : costs) EXPECT_DOUBLE_EQ(cost.even_s, (6 + 2) / 2.0 / 2);
  EXPECT_DOUBLE_EQ(costs[0].max_over_mean, 7 / 4.0);
  EXPECT_DOUBLE_EQ(costs[1].max_over_mean, 1.0);
}

TEST(PlacementReplay, TakesTheLongerOfWeightsAndTokens) {
  PlacementReplay replay({{.name = "a", .layers = {Map(4, {{0, 1}, {2, 3}})}}},
                         {.weights_s = 10.0, .token_s = 1.0});
  replay.Add(MakeBatch(0, 0, {{0, 1}, {2, 0}}));
  EXPECT_DOUBLE_EQ(replay.Costs()[0].expert_s, 20.0);  // two experts beside three tokens
  EXPECT_DOUBLE_EQ(replay.Costs()[0].even_s, 15.0);
  std::vector<std::vector<uint16_t>> many(30, {0, 2});
  replay.Add(MakeBatch(1, 0, many));
  EXPECT_DOUBLE_EQ(replay.Costs()[0].expert_s, (20.0 + 30.0) / 2);
}

TEST(PlacementReplay, SpreadsTokensOverReplicas) {
  const std::vector<Placement> placements = {{.name = "one", .layers = {Map(2, {{0}, {1}})}},
                                             {.name = "two", .layers = {Map(2, {{0}, {0, 1}})}}};
  PlacementReplay many(placements, {});
  many.Add(MakeBatch(0, 0, std::vector<std::vector<uint16_t>>(9, {0})));
  EXPECT_DOUBLE_EQ(many.Costs()[0].expert_s, 9.0);
  EXPECT_DOUBLE_EQ(many.Costs()[1].expert_s, 5.0);
  // Single tokens take the replicas in turn: beside one of expert 1, every other step is even.
  PlacementReplay single(placements, {});
  for (uint64_t step = 0; step < 10; ++step) single.Add(MakeBatch(step, 0, {{0}, {1}}));
  EXPECT_DOUBLE_EQ(single.Costs()[0].expert_s, 1.0);
  EXPECT_DOUBLE_EQ(single.Costs()[1].expert_s, 1.5);
}

TEST(PlacementReplay, OfNothing) {
  const LoadCounts counts = LoadCounts::Zero(2, 8);
  PlacementReplay replay(MakePlacements(counts, 4, 3, 100, {}), {});
  for (const PlacementCost& cost : replay.Costs()) EXPECT_EQ(cost.expert_s, 0.0);
  // Without load there is nothing to improve.
  for (const Placement& placement : replay.placements()) EXPECT_EQ(placement.moved, 0);
}

TEST(CostOfCounts, IsThatOfOneStep) {
  const Placement placement{.name = "a",
                            .layers = {Map(3, {{0}, {1, 2}}), Map(3, {{0, 1}, {1, 2}})}};
  LoadCounts counts = LoadCounts::Zero(2, 3);
  counts.counts = {6, 1, 1, 2, 4, 0};
  counts.uses.clear();  // not known
  const auto cost_of = [&](const LoadCounts& of, const ExpertCost& cost) {
    return CostOfCounts(placement, std::span(&of, 1), cost);
  };
  const PlacementCost tokens = cost_of(counts, {});
  EXPECT_DOUBLE_EQ(tokens.expert_s, 6 + 4);  // the second layer's expert 1 is on both ranks
  EXPECT_DOUBLE_EQ(tokens.even_s, 4 + 3);
  EXPECT_DOUBLE_EQ(tokens.max_over_mean, (6 + 4) * 2 / 14.0);
  EXPECT_DOUBLE_EQ(cost_of(counts, {.weights_s = 10, .token_s = 1}).expert_s, 20 + 20);
  EXPECT_EQ(cost_of(LoadCounts::Zero(2, 3), {}).max_over_mean, 1.0);
}

TEST(CostOfCounts, IsTheMeanOfTheStepsOfWindows) {
  const Placement placement{.name = "a", .layers = {Map(3, {{0, 1}, {1, 2}})}};
  std::vector<LoadCounts> windows(2, LoadCounts::Zero(1, 3));
  windows[0].counts = {6, 2, 1};  // in steps 5 to 8
  windows[0].uses = {4, 1, 1};
  windows[0].first_step = 5;
  windows[0].last_step = 8;
  windows[1].counts = {0, 8, 9};  // in step 9
  windows[1].uses = {0, 1, 1};
  windows[1].first_step = windows[1].last_step = 9;
  const PlacementCost tokens = CostOfCounts(placement, windows, {});
  EXPECT_DOUBLE_EQ(tokens.expert_s, (7 + 13) / 5.0);
  EXPECT_DOUBLE_EQ(tokens.max_over_mean, (7 + 13) * 2 / 26.0);
  // Expert 0 is read in 4 steps, each replica of 1 in one.
  const PlacementCost weights = CostOfCounts(placement, windows, {.weights_s = 10, .token_s = 0});
  EXPECT_DOUBLE_EQ(weights.expert_s, (50 + 20) / 5.0);
  EXPECT_DOUBLE_EQ(weights.even_s, (70 + 30) / 2.0 / 5.0);
}

TEST(MakePlacements, EvensOutWhatCosts) {
  // Experts 0 and 1 are used in every step with a token each, 2 and 3 in one step with many.
  LoadCounts counts = LoadCounts::Zero(1, 4);
  counts.counts = {10, 10, 30, 30};
  counts.uses = {10, 10, 1, 1};
  const auto first_rank = [&](const ExpertCost& cost) {
    return MakePlacements(counts, 2, 3, 100, cost)[2].layers[0].ranks[0];
  };
  // By tokens 60 stand beside 20, by weights 20 beside 2: either way they are mixed.
  EXPECT_EQ(first_rank({}).size(), 2u);
  counts.counts = {10, 10, 10, 10};
  EXPECT_EQ(first_rank({}), (std::vector<int>{0, 1}));  // even by tokens: nothing to do
  const std::vector<int> mixed = first_rank({.weights_s = 10.0, .token_s = 1.0});
  EXPECT_TRUE(mixed == (std::vector<int>{0, 2}) || mixed == (std::vector<int>{0, 3}));
}

TEST(MakePlacements, KeepsToSlots) {
  LoadCounts counts = LoadCounts::Zero(1, 8);
  counts.counts = {100, 90, 5, 5, 5, 5, 5, 5};
  const std::vector<Placement> placements = MakePlacements(counts, 4, 3, 100, {});
  ASSERT_EQ(placements.size(), 4u);
  EXPECT_EQ(placements[1].name, "migrate");
  EXPECT_EQ(placements[1].layers[0].MostExperts(), 2);
  EXPECT_EQ(placements[2].name, "remap");
  EXPECT_EQ(placements[2].layers[0].MostExperts(), 2);
  EXPECT_EQ(placements[3].name, "replicate");
  EXPECT_EQ(placements[3].layers[0].MostExperts(), 3);
  EXPECT_GT(placements[3].layers[0].Replicas()[0], 1);
}

}  // namespace
}  // namespace sluice
