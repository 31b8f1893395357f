#include "plan/expert_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "base/error.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;

constexpr Rebalancing kKinds[] = {Rebalancing::kMigrate, Rebalancing::kRemap,
                                  Rebalancing::kReplicate};

double Fullest(const ExpertMap& map, std::span<const double> loads) {
  const std::vector<double> ranks = RankLoads(map, loads);
  return *std::max_element(ranks.begin(), ranks.end());
}

// What every map must be.
void ExpectSound(const ExpertMap& map, int slots) {
  EXPECT_LE(map.MostExperts(), slots);
  for (const std::vector<int>& rank : map.ranks) {
    EXPECT_TRUE(std::adjacent_find(rank.begin(), rank.end(), std::greater_equal<>()) == rank.end());
  }
  for (const int replicas : map.Replicas()) EXPECT_GE(replicas, 1);
}

TEST(ExpertMap, CutsExpertsAsRanksDo) {
  EXPECT_THAT(ContiguousMap(8, 4).ranks, ElementsAre(ElementsAre(0, 1), ElementsAre(2, 3),
                                                     ElementsAre(4, 5), ElementsAre(6, 7)));
  EXPECT_EQ(ContiguousMap(60, 8).MostExperts(), 8);
  EXPECT_EQ(ContiguousMap(1, 3).MostExperts(), 1);
  ExpectSound(ContiguousMap(257, 31), 9);
}

TEST(ExpertMap, SplitsALoadAmongReplicas) {
  const ExpertMap map{.num_experts = 3, .ranks = {{0, 1}, {0, 2}, {0}}};
  const double loads[] = {9, 2, 5};
  EXPECT_THAT(RankLoads(map, loads), ElementsAre(5, 8, 3));
  EXPECT_THAT(map.Replicas(), ElementsAre(3, 1, 1));
}

TEST(Rebalance, DoesWhatItsNameSays) {
  const ExpertMap start = ContiguousMap(4, 2);
  const double loads[] = {8, 6, 1, 1};
  const ExpertMap moved = Rebalance(Rebalancing::kMigrate, start, loads, {.slots_per_rank = 2});
  EXPECT_EQ(Fullest(moved, loads), 9);  // 8 and 1 beside 6 and 1
  EXPECT_EQ(MovedExperts(start, moved), 2);
  const ExpertMap anew = Rebalance(Rebalancing::kRemap, start, loads, {.slots_per_rank = 2});
  EXPECT_EQ(Fullest(anew, loads), 9);
  // One more slot on each rank: both of the heavy experts are on both.
  const ExpertMap replicated =
      Rebalance(Rebalancing::kReplicate, start, loads, {.slots_per_rank = 3});
  EXPECT_EQ(Fullest(replicated, loads), 8);
  EXPECT_THAT(replicated.Replicas(), ElementsAre(2, 2, 1, 1));
  // One move alone cannot: there is no free slot, and a swap is two.
  const ExpertMap one =
      Rebalance(Rebalancing::kMigrate, start, loads, {.slots_per_rank = 2, .max_moves = 1});
  EXPECT_EQ(MovedExperts(start, one), 0);
}

TEST(Rebalance, RefusesTooFewSlots) {
  const double loads[] = {1, 1, 1, 1};
  EXPECT_THROW(Rebalance(Rebalancing::kRemap, ContiguousMap(4, 2), loads, {.slots_per_rank = 1}),
               Error);
}

// Loads as routers give them: popularity by rank, in any order.
std::vector<double> SkewedLoads(std::mt19937& random, int experts) {
  const double exponent = std::uniform_real_distribution<>(0.0, 1.6)(random);
  std::vector<double> loads(static_cast<size_t>(experts));
  for (int e = 0; e < experts; ++e) loads[e] = std::floor(1e5 * std::pow(e + 1.0, -exponent));
  std::shuffle(loads.begin(), loads.end(), random);
  if (random() % 10 == 0) std::fill(loads.begin() + 1, loads.end(), 0.0);  // all on one
  return loads;
}

TEST(Rebalance, NeverRaisesTheFullestRank) {
  std::mt19937 random(17);
  int lowered = 0;
  for (int trial = 0; trial < 300; ++trial) {
    const int experts = 1 + static_cast<int>(random() % 130);
    const int ranks = 1 + static_cast<int>(random() % 16);
    const std::vector<double> loads = SkewedLoads(random, experts);
    const ExpertMap start = ContiguousMap(experts, ranks);
    const double total = std::accumulate(loads.begin(), loads.end(), 0.0);
    for (const Rebalancing kind : kKinds) {
      const int slots = start.MostExperts() + static_cast<int>(random() % 4);
      const ExpertMap map = Rebalance(kind, start, loads, {.slots_per_rank = slots});
      ExpectSound(map, slots);
      const std::vector<double> rank_loads = RankLoads(map, loads);
      EXPECT_NEAR(std::accumulate(rank_loads.begin(), rank_loads.end(), 0.0), total, 1e-6 * total);
      EXPECT_LE(Fullest(map, loads), Fullest(start, loads));
      lowered += Fullest(map, loads) < Fullest(start, loads) ? 1 : 0;
      if (kind != Rebalancing::kReplicate) {
        for (const int replicas : map.Replicas()) EXPECT_EQ(replicas, 1);
      }
    }
  }
  EXPECT_GT(lowered, 500);
}

TEST(Rebalance, DoesNotDependOnNamesOrScale) {
  std::mt19937 random(23);
  for (int trial = 0; trial < 60; ++trial) {
    std::vector<double> loads(32);  // all different, so that no tie is broken by an expert's number
    for (size_t e = 0; e < loads.size(); ++e) loads[e] = 1000.0 / (1.0 + e) + e * 1e-3;
    std::vector<double> other = loads;
    std::shuffle(other.begin(), other.end(), random);
    const RebalancingLimits limits{.slots_per_rank = 9};
    for (const Rebalancing kind : {Rebalancing::kRemap, Rebalancing::kReplicate}) {
      const double fullest = Fullest(Rebalance(kind, ContiguousMap(32, 4), loads, limits), loads);
      EXPECT_NEAR(Fullest(Rebalance(kind, ContiguousMap(32, 4), other, limits), other), fullest,
                  1e-9);
      std::vector<double> scaled = loads;
      for (double& load : scaled) load *= 64;
      EXPECT_NEAR(Fullest(Rebalance(kind, ContiguousMap(32, 4), scaled, limits), scaled),
                  64 * fullest, 1e-6);
    }
  }
}

// The least that the fullest rank can have with each expert on one rank, by trying all.
double LeastFullest(const std::vector<double>& loads, int ranks, int slots) {
  std::vector<double> rank_loads(static_cast<size_t>(ranks));
  std::vector<int> used(static_cast<size_t>(ranks));
  double best = std::accumulate(loads.begin(), loads.end(), 0.0);
  const auto place = [&](auto&& self, size_t expert) -> void {
    if (expert == loads.size()) {
      best = std::min(best, *std::max_element(rank_loads.begin(), rank_loads.end()));
      return;
    }
    for (int r = 0; r < ranks; ++r) {
      if (used[r] == slots || rank_loads[r] + loads[expert] >= best) continue;
      rank_loads[r] += loads[expert];
      ++used[r];
      self(self, expert + 1);
      rank_loads[r] -= loads[expert];
      --used[r];
    }
  };
  place(place, 0);
  return best;
}

TEST(Rebalance, ComesNearTheBest) {
  std::mt19937 random(31);
  double worst = 1.0;
  for (int trial = 0; trial < 100; ++trial) {
    std::vector<double> loads(9);
    for (double& load : loads) load = 1 + random() % 100;
    const ExpertMap start = ContiguousMap(9, 3);
    const double best = LeastFullest(loads, 3, 3);
    const ExpertMap map = Rebalance(Rebalancing::kRemap, start, loads, {.slots_per_rank = 3});
    worst = std::max(worst, Fullest(map, loads) / best);
    // A replica for each rank comes at least as near, and may pass it.
    const ExpertMap more = Rebalance(Rebalancing::kReplicate, start, loads, {.slots_per_rank = 4});
    EXPECT_LE(Fullest(more, loads), 1.1 * best);
  }
  EXPECT_LT(worst, 1.15);
}

TEST(Rebalance, MigrationKeepsToItsMoves) {
  std::mt19937 random(41);
  for (int trial = 0; trial < 50; ++trial) {
    const std::vector<double> loads = SkewedLoads(random, 64);
    const ExpertMap start = ContiguousMap(64, 8);
    double before = Fullest(start, loads);
    for (const int moves : {0, 2, 4, 8, 16, 64}) {
      const ExpertMap map =
          Rebalance(Rebalancing::kMigrate, start, loads, {.slots_per_rank = 9, .max_moves = moves});
      EXPECT_LE(MovedExperts(start, map), moves);
      EXPECT_LE(Fullest(map, loads), before + 1e-9);
      before = Fullest(map, loads);
    }
  }
}

}  // namespace
}  // namespace sluice
