#include "study/load_balance.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "study/load_balance_study.h"
#include "study/testing.h"
#include "trace/synthesize.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

LoadCounts Counts(int layers, int experts, std::vector<uint64_t> counts) {
  return {.num_layers = layers, .num_experts = experts, .counts = std::move(counts)};
}

TEST(LoadBalance, MeasuresExpertsAndRanksOfEachLayer) {
  const LoadCounts counts = Counts(3, 4, {8, 0, 1, 3, 0, 0, 0, 0, 5, 5, 5, 5});
  const std::vector<LayerLoad> layers = MeasureLayers(counts, {.ranks = 2});
  ASSERT_EQ(layers.size(), 2u);  // one has no load
  EXPECT_EQ(layers[0].layer, 0);
  EXPECT_DOUBLE_EQ(layers[0].experts.max_over_mean, 8.0 / 3);
  EXPECT_DOUBLE_EQ(layers[0].ranks.max_over_mean, 8.0 / 6);
  EXPECT_THAT(layers[0].hot, ElementsAre(0));
  EXPECT_THAT(layers[0].cold, ElementsAre(1, 2));
  EXPECT_EQ(layers[1].layer, 2);
  EXPECT_EQ(layers[1].experts.gini, 0.0);
  EXPECT_THAT(layers[1].hot, IsEmpty());
  EXPECT_THAT(layers[1].cold, IsEmpty());
  EXPECT_THAT(MeasureLayers(LoadCounts(), {}), IsEmpty());
}

TEST(LoadBalance, SaysWhetherHotExpertsStay) {
  // Of 20 experts the top tenth is two.
  std::vector<LoadCounts> windows(3, LoadCounts::Zero(1, 20));
  windows[0].counts[3] = 9;
  windows[0].counts[5] = 8;
  windows[1].counts[5] = 9;
  windows[1].counts[7] = 8;
  windows[2] = windows[1];
  const std::vector<WindowLoad> measured = MeasureWindows(windows, {.ranks = 4});
  ASSERT_EQ(measured.size(), 3u);
  EXPECT_EQ(measured[0].hot_kept, 1.0);
  EXPECT_EQ(measured[1].hot_kept, 0.5);
  EXPECT_EQ(measured[2].hot_kept, 1.0);
  EXPECT_DOUBLE_EQ(measured[0].max_over_mean, 9.0 / (17.0 / 20));
}

OpenSource Open(const SyntheticDesc& desc) {
  return [desc] {
    return std::make_unique<SyntheticBatches>(
        desc, SyntheticRun{
                  .num_layers = 3, .num_experts = 32, .top_k = 4, .sequences = 24, .steps = 120});
  };
}

TEST(LoadBalanceStudy, RebalancingLowersTheTimeOfASkewedRun) {
  const SyntheticDesc zipf{.kind = SyntheticKind::kZipf, .parameter = 1.1, .seed = 2};
  const LoadBalanceReport report = StudyLoadBalance(Open(zipf), {.balance = {.ranks = 4}});
  ASSERT_EQ(report.placements.size(), 4u);
  EXPECT_EQ(report.slots_per_rank, 9);
  const PlacementResult& contiguous = report.placements[0];
  EXPECT_EQ(contiguous.name, "contiguous");
  EXPECT_EQ(contiguous.moved, 0);
  for (size_t p = 1; p < 4; ++p) {
    EXPECT_LT(report.placements[p].cost.expert_s, 0.95 * contiguous.cost.expert_s);
    EXPECT_GT(report.placements[p].moved, 0);
    EXPECT_GE(report.placements[p].cost.expert_s, contiguous.cost.even_s);
  }
  // 24 tokens of 4 experts in 3 layers over 4 ranks.
  EXPECT_DOUBLE_EQ(contiguous.cost.even_s, 24 * 4 * 3 / 4.0);
  EXPECT_EQ(report.windows.size(), 60u);
  ASSERT_TRUE(report.coactivation);
  EXPECT_EQ(report.coactivation->FollowedShare(), 1.0);
}

TEST(LoadBalanceStudy, WhatIsLearnedEarlyAgesWhenTheLoadDrifts) {
  const SyntheticDesc drifting{.kind = SyntheticKind::kDrifting, .parameter = 8, .seed = 2};
  const SyntheticDesc steady{.kind = SyntheticKind::kDrifting, .parameter = 1000, .seed = 2};
  const LoadBalanceRequest request{
      .balance = {.ranks = 4}, .coactivation = false, .learn_steps = 20};
  const auto gain = [&](const SyntheticDesc& desc) {
    const LoadBalanceReport report = StudyLoadBalance(Open(desc), request);
    EXPECT_FALSE(report.coactivation);
    return report.placements[2].cost.expert_s / report.placements[0].cost.expert_s;
  };
  EXPECT_LT(gain(steady), gain(drifting));
}

LoadBalanceReport StudyOf(const std::vector<LoadCounts>& windows,
                          const LoadBalanceRequest& request) {
  return StudyCounts({.num_layers = 1, .num_experts = 4}, windows, request);
}

TEST(LoadBalanceStudy, TakesCountsToo) {
  const LoadBalanceReport report = StudyOf({Counts(1, 4, {8, 6, 1, 1})}, {.balance = {.ranks = 2}});
  ASSERT_EQ(report.placements.size(), 4u);
  EXPECT_DOUBLE_EQ(report.placements[0].cost.expert_s, 14.0);
  EXPECT_DOUBLE_EQ(report.placements[2].cost.expert_s, 9.0);
  EXPECT_DOUBLE_EQ(report.placements[3].cost.expert_s, 8.0);
  EXPECT_DOUBLE_EQ(report.placements[3].cost.max_over_mean, 1.0);
  EXPECT_THROW(StudyOf({LoadCounts::Zero(1, 4)}, {}), Error);
  EXPECT_THROW(StudyOf({}, {}), Error);
}

TEST(LoadBalanceStudy, TakesWindowsOfCounts) {
  // Two steps with one load, then two with another.
  std::vector<LoadCounts> windows{Counts(1, 4, {8, 6, 1, 1}), Counts(1, 4, {1, 6, 8, 1})};
  for (uint64_t w = 0; w < 2; ++w) {
    windows[w].first_step = 100 + 2 * w;
    windows[w].last_step = 101 + 2 * w;
  }
  LoadBalanceRequest request{.balance = {.ranks = 2}, .slots_per_rank = 2};
  const LoadBalanceReport all = StudyOf(windows, request);
  EXPECT_EQ(all.windows.size(), 2u);
  EXPECT_EQ(all.steps_per_window, 2u);
  EXPECT_EQ(all.windows[1].hot_kept, 0.0);
  EXPECT_EQ(all.layers[0].loads, (std::vector<double>{9, 12, 9, 2}));
  EXPECT_DOUBLE_EQ(all.placements[0].cost.expert_s, (14 + 9) / 4.0);

  // Made for the first window, 0 apart from 1, and judged by the second.
  request.learn_steps = 2;
  const LoadBalanceReport learned = StudyOf(windows, request);
  EXPECT_DOUBLE_EQ(learned.placements[0].cost.expert_s, 9 / 2.0);
  EXPECT_DOUBLE_EQ(learned.placements[2].cost.expert_s, 14 / 2.0);
  request.learn_steps = 1;
  EXPECT_THROW(StudyOf(windows, request), Error);  // no window ends so early
  request.learn_steps = 4;
  EXPECT_THROW(StudyOf(windows, request), Error);  // none is left
}

TEST(LoadBalanceStudy, RefusesWhatHasNothingToStudy) {
  const RouterTraceHeader header{.num_layers = 1, .num_experts = 4, .top_k = 1};
  const auto open = [&](const std::vector<RouterBatch>& batches) {
    return [&header, batches] { return std::make_unique<MemoryBatches>(header, batches); };
  };
  EXPECT_THROW(StudyLoadBalance(open({}), {}), Error);
  const OpenSource one = open({MakeBatch(0, 0, {{1}})});
  EXPECT_NO_THROW(StudyLoadBalance(one, {}));
  EXPECT_THROW(StudyLoadBalance(one, {.learn_steps = 1}), Error);
  EXPECT_THROW(StudyLoadBalance(one, {.balance = {.ranks = 2}, .slots_per_rank = 1}), Error);
}

}  // namespace
}  // namespace sluice
