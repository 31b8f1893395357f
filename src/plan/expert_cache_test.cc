#include "plan/expert_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <map>
#include <random>

namespace sluice {
namespace {

constexpr CachePolicy kPolicies[] = {CachePolicy::kLru, CachePolicy::kLfu, CachePolicy::kBelady};

ExpertAccesses Accesses(std::vector<uint32_t> keys, int num_keys) {
  return {.num_keys = num_keys, .keys = std::move(keys)};
}

uint64_t Hits(const ExpertAccesses& accesses, int slots, CachePolicy policy) {
  return SimulateCache(accesses, slots, policy).hits;
}

TEST(ExpertCache, FollowsItsPolicy) {
  // Two slots.      0 1 0 2 1 0: LRU  drops 1 for 2, 0 for 1, 2 for 0.
  const ExpertAccesses accesses = Accesses({0, 1, 0, 2, 1, 0}, 3);
  EXPECT_EQ(Hits(accesses, 2, CachePolicy::kLru), 1u);
  // LFU keeps 0, used twice: it drops 1 for 2 and 2 for 1.
  EXPECT_EQ(Hits(accesses, 2, CachePolicy::kLfu), 2u);
  // Belady drops 0 for 2, whose next use is last, then 2.
  EXPECT_EQ(Hits(accesses, 2, CachePolicy::kBelady), 2u);
  EXPECT_EQ(SimulateCache(accesses, 2, CachePolicy::kLru).accesses, 6u);
}

TEST(ExpertCache, EdgeSizes) {
  const ExpertAccesses accesses = Accesses({0, 1, 2, 0, 1, 2, 2}, 3);
  for (const CachePolicy policy : kPolicies) {
    EXPECT_EQ(Hits(accesses, 0, policy), 0u);
    EXPECT_EQ(Hits(accesses, 3, policy), 4u);
    EXPECT_EQ(Hits(accesses, 100, policy), 4u);
    EXPECT_EQ(Hits(Accesses({}, 3), 2, policy), 0u);
    EXPECT_EQ(SimulateCache(Accesses({}, 3), 2, policy).HitRate(), 0.0);
  }
}

// The most hits that any choice of victims has, tried exhaustively.
uint64_t BestHits(const std::vector<uint32_t>& keys, size_t slots) {
  std::map<std::pair<size_t, std::vector<uint32_t>>, uint64_t> known;
  const std::function<uint64_t(size_t, std::vector<uint32_t>)> best =
      [&](size_t i, std::vector<uint32_t> held) -> uint64_t {
    if (i == keys.size()) return 0;
    std::sort(held.begin(), held.end());
    const auto found = known.find({i, held});
    if (found != known.end()) return found->second;
    uint64_t most = 0;
    if (std::find(held.begin(), held.end(), keys[i]) != held.end()) {
      most = 1 + best(i + 1, held);
    } else if (held.size() < slots) {
      std::vector<uint32_t> more = held;
      more.push_back(keys[i]);
      most = best(i + 1, more);
    } else {
      for (size_t victim = 0; victim < held.size(); ++victim) {
        std::vector<uint32_t> other = held;
        other[victim] = keys[i];
        most = std::max(most, best(i + 1, other));
      }
    }
    known[{i, held}] = most;
    return most;
  };
  return best(0, {});
}

TEST(ExpertCache, BeladyIsTheBestOfAll) {
  std::mt19937 random(5);
  for (int trial = 0; trial < 60; ++trial) {
    std::vector<uint32_t> keys(14);
    for (uint32_t& key : keys) key = random() % 5;
    const ExpertAccesses accesses = Accesses(keys, 5);
    for (const int slots : {1, 2, 3}) {
      const uint64_t best = BestHits(keys, static_cast<size_t>(slots));
      EXPECT_EQ(Hits(accesses, slots, CachePolicy::kBelady), best);
      EXPECT_LE(Hits(accesses, slots, CachePolicy::kLru), best);
      EXPECT_LE(Hits(accesses, slots, CachePolicy::kLfu), best);
    }
  }
}

TEST(ExpertCache, CurvesRiseAndMeetTheSimulation) {
  std::mt19937 random(9);
  std::vector<uint32_t> keys(3000);
  for (uint32_t& key : keys) key = std::min(random() % 40, random() % 40);
  const ExpertAccesses accesses = Accesses(keys, 40);
  for (const CachePolicy policy : kPolicies) {
    const CacheCurve curve = MeasureCurve(accesses, policy, 8);
    ASSERT_EQ(curve.slots.size(), 9u);
    EXPECT_TRUE(std::is_sorted(curve.hit_rates.begin(), curve.hit_rates.end()));
    EXPECT_EQ(curve.At(0), 0.0);
    EXPECT_DOUBLE_EQ(curve.At(10), SimulateCache(accesses, 10, policy).HitRate());
    EXPECT_DOUBLE_EQ(curve.At(12), curve.At(10) + 0.4 * (curve.At(15) - curve.At(10)));
    EXPECT_DOUBLE_EQ(curve.At(40), 1.0 - 40.0 / 3000.0);  // each is missed once
    EXPECT_DOUBLE_EQ(curve.At(1000), curve.At(40));
  }
  EXPECT_EQ(MeasureCurve(Accesses({}, 3), CachePolicy::kLru, 8).slots.size(), 4u);
}

TEST(ExpertCache, ALayerLongerThanABatchIsOne) {
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("sluice_long_layer_" + std::to_string(getpid()));
  {
    RouterTraceWriter writer(path, {.num_layers = 1, .num_experts = 2, .top_k = 1});
    const std::vector<RouterRecord> records(RouterTraceReader::kMaxBatchTokens + 9,
                                            {.experts = {1}, .weights = {1.0f}});
    writer.Append(records);
    writer.Close();
  }
  RouterTraceReader reader(path);
  const ExpertAccesses accesses = ReadAccesses(reader, 1000);
  EXPECT_THAT(accesses.keys, ::testing::ElementsAre(1));
  EXPECT_EQ(accesses.layer_steps, 1u);
  EXPECT_EQ(accesses.tokens, RouterTraceReader::kMaxBatchTokens + 9);
  std::filesystem::remove(path);
}

TEST(ExpertCache, ReadsEachExpertOnceAStepAndLayer) {
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("sluice_accesses_" + std::to_string(getpid()));
  {
    RouterTraceWriter writer(path, {.num_layers = 2, .num_experts = 4, .top_k = 2});
    const auto add = [&](uint64_t step, uint64_t sequence, int layer, std::vector<uint16_t> ids) {
      writer.Append(std::vector<RouterRecord>{{.step = step,
                                               .sequence = sequence,
                                               .layer = layer,
                                               .experts = std::move(ids),
                                               .weights = {0.5f, 0.5f}}});
    };
    add(7, 0, 0, {3, 1});
    add(7, 1, 0, {1, 2});
    add(7, 0, 1, {0, 1});
    add(8, 0, 0, {2, 0});
    writer.Close();
  }
  RouterTraceReader all(path);
  const ExpertAccesses accesses = ReadAccesses(all, 1000);
  EXPECT_THAT(accesses.keys, ::testing::ElementsAre(1, 2, 3, 4, 5, 0, 2));
  EXPECT_EQ(accesses.num_keys, 8);
  EXPECT_EQ(accesses.steps, 2u);
  EXPECT_EQ(accesses.layer_steps, 3u);
  EXPECT_TRUE(accesses.complete);
  RouterTraceReader first(path);
  const ExpertAccesses cut = ReadAccesses(first, 1);
  EXPECT_EQ(cut.keys.size(), 5u);  // whole steps
  EXPECT_FALSE(cut.complete);
  std::filesystem::remove(path);
}

TEST(ExpertCache, PoliciesHaveNames) {
  for (const CachePolicy policy : kPolicies) {
    EXPECT_EQ(ParseCachePolicy(CachePolicyName(policy)), policy);
  }
  EXPECT_EQ(ParseCachePolicy("fifo"), std::nullopt);
}

}  // namespace
}  // namespace sluice
