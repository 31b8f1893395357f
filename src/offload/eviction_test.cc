#include "offload/eviction.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <vector>

namespace sluice {
namespace {

constexpr int kLayers = 4;
constexpr int kExperts = 3;

int32_t Index(int layer, int expert) {
  return layer * kExperts + expert;
}

TEST(EvictionPolicyName, IsReadBack) {
  for (const auto policy :
       {EvictionPolicy::kLru, EvictionPolicy::kLfu, EvictionPolicy::kExpected}) {
    EXPECT_EQ(ParseEvictionPolicy(EvictionPolicyName(policy)), policy);
  }
  EXPECT_FALSE(ParseEvictionPolicy("fifo").has_value());
}

TEST(EvictionOrder, CountsLayersUntilTheNextUse) {
  EvictionOrder order(EvictionPolicy::kExpected, kLayers, kExperts);
  for (int layer = 0; layer < kLayers; ++layer) order.NoteRun(layer, std::vector{1, 5, 0});
  order.NoteRun(2, std::vector{1, 0, 0});  // expert 1: one run of two
  order.BeginLayer(1);
  EXPECT_DOUBLE_EQ(order.LayersUntilUse(Index(2, 0)), 1);
  EXPECT_DOUBLE_EQ(order.LayersUntilUse(Index(3, 0)), 2);
  EXPECT_DOUBLE_EQ(order.LayersUntilUse(Index(0, 0)), 3);
  EXPECT_DOUBLE_EQ(order.LayersUntilUse(Index(1, 0)), 4);  // this run's need is known
  EXPECT_DOUBLE_EQ(order.LayersUntilUse(Index(2, 1)), 1 + kLayers);
  EXPECT_GT(order.LayersUntilUse(Index(2, 2)), 900 * kLayers);
  EXPECT_TRUE(order.LeavesBefore(Index(2, 2), Index(2, 1)));
  EXPECT_TRUE(order.LeavesBefore(Index(1, 0), Index(2, 0)));
  EXPECT_FALSE(order.LeavesBefore(Index(2, 0), Index(1, 0)));
}

TEST(EvictionOrder, TakesAForecastForOneRun) {
  EvictionOrder order(EvictionPolicy::kExpected, kLayers, kExperts);
  order.NoteRun(2, std::vector{1, 1, 0});
  order.BeginLayer(1);
  order.Expect(2, std::vector{0.01, 20.0, 20.0});
  EXPECT_NEAR(order.LayersUntilUse(Index(2, 1)), 1, 1e-4);
  EXPECT_NEAR(order.LayersUntilUse(Index(2, 2)), 1, 1e-4);
  // A hundredth of a token: it comes in about one run of a hundred.
  EXPECT_NEAR(order.LayersUntilUse(Index(2, 0)), 1 + 99.5 * kLayers, 1);
  order.NoteRun(2, std::vector{1, 1, 0});
  EXPECT_DOUBLE_EQ(order.LayersUntilUse(Index(2, 0)), 1);
  EXPECT_GT(order.LayersUntilUse(Index(2, 2)), 900);
}

TEST(EvictionOrder, ForgetsWhatIsLongAgo) {
  EvictionOrder order(EvictionPolicy::kLfu, 1, kExperts);
  for (int run = 0; run < 1000; ++run) order.NoteRun(0, std::vector{1, 0, 0});
  for (int run = 0; run < 60; ++run) order.NoteRun(0, std::vector{0, 1, 0});
  EXPECT_TRUE(order.LeavesBefore(0, 1));
  EXPECT_TRUE(order.LeavesBefore(2, 0));
}

TEST(EvictionOrder, OfEqualFrequencyTheLeastRecentlyUsedLeaves) {
  EvictionOrder order(EvictionPolicy::kLfu, 1, kExperts);
  order.NoteRun(0, std::vector{1, 1, 1});
  order.Touch(1);
  order.Touch(0);
  EXPECT_TRUE(order.LeavesBefore(1, 0));
  EXPECT_TRUE(order.LeavesBefore(2, 1));
}

// The store asks each layer for its candidate once, and keeps the answer as layers go by.
TEST(EvictionOrder, OrdersALayersExpertsAlikeWhateverLayerRuns) {
  std::mt19937 random(7);
  for (const auto policy :
       {EvictionPolicy::kLru, EvictionPolicy::kLfu, EvictionPolicy::kExpected}) {
    EvictionOrder order(policy, kLayers, kExperts);
    for (int step = 0; step < 200; ++step) {
      const auto layer = static_cast<int>(random() % kLayers);
      std::vector<int32_t> tokens(kExperts);
      for (int32_t& count : tokens) count = static_cast<int32_t>(random() % 2);
      order.NoteRun(layer, tokens);
      order.Touch(static_cast<int32_t>(random() % (kLayers * kExperts)));
      const auto a = Index(layer, static_cast<int>(random() % kExperts));
      const auto b = Index(layer, static_cast<int>(random() % kExperts));
      order.BeginLayer(0);
      const bool answer = order.LeavesBefore(a, b);
      for (int running = 1; running < kLayers; ++running) {
        order.BeginLayer(running);
        ASSERT_EQ(order.LeavesBefore(a, b), answer);
      }
    }
  }
}

// Hits per round once it has settled, of a cache of `slots` where every layer needs every expert.
int HitsOfACycle(EvictionPolicy policy, size_t slots) {
  EvictionOrder order(policy, kLayers, kExperts);
  std::set<int32_t> held;
  int hits = 0;
  for (int round = 0; round < 20; ++round) {
    hits = 0;
    for (int layer = 0; layer < kLayers; ++layer) {
      order.BeginLayer(layer);
      order.NoteRun(layer, std::vector<int32_t>(kExperts, 1));
      for (int expert = 0; expert < kExperts; ++expert) {
        const int32_t index = Index(layer, expert);
        if (held.contains(index)) {
          ++hits;
        } else if (held.size() == slots) {
          held.erase(*std::min_element(held.begin(), held.end(), [&](int32_t a, int32_t b) {
            return order.LeavesBefore(a, b);
          }));
        }
        held.insert(index);
        order.Touch(index);
      }
    }
  }
  return hits;
}

TEST(EvictionOrder, OfLayersInACycleLruKeepsNothingAndExpectedNearlyAllItCan) {
  constexpr size_t kSlots = 8;  // of 12
  EXPECT_EQ(HitsOfACycle(EvictionPolicy::kLru, kSlots), 0);
  EXPECT_GE(HitsOfACycle(EvictionPolicy::kExpected, kSlots), 6);
}

}  // namespace
}  // namespace sluice
