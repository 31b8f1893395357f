#include "plan/load_stats.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace sluice {
namespace {

TEST(LoadStats, OfKnownLoads) {
  const double loads[] = {1, 3, 0, 4};
  const LoadStats stats = MeasureLoad(loads);
  EXPECT_EQ(stats.total, 8);
  EXPECT_EQ(stats.mean, 2);
  EXPECT_EQ(stats.max, 4);
  EXPECT_EQ(stats.min, 0);
  EXPECT_DOUBLE_EQ(stats.max_over_mean, 2.0);
  EXPECT_DOUBLE_EQ(stats.cv, std::sqrt(2.5) / 2);  // squares 1, 1, 4, 4
  // Differences of the six pairs: 2 1 3 3 1 4; twice their sum over 2 * 16 * 2.
  EXPECT_DOUBLE_EQ(stats.gini, 28.0 / 64);
  const double entropy = -(std::log(0.125) / 8 + 3 * std::log(0.375) / 8 + std::log(0.5) / 2);
  EXPECT_DOUBLE_EQ(stats.entropy, entropy);
  EXPECT_DOUBLE_EQ(stats.evenness, entropy / std::log(4));
}

TEST(LoadStats, AtTheEdges) {
  const double zeros[] = {0, 0, 0};
  for (const LoadStats& even : {MeasureLoad({}), MeasureLoad(zeros)}) {
    EXPECT_EQ(even.max_over_mean, 1.0);
    EXPECT_EQ(even.cv, 0.0);
    EXPECT_EQ(even.gini, 0.0);
    EXPECT_EQ(even.entropy, 0.0);
    EXPECT_EQ(even.evenness, 1.0);
  }
  const double one[] = {7};
  EXPECT_EQ(MeasureLoad(one).max_over_mean, 1.0);
  EXPECT_EQ(MeasureLoad(one).gini, 0.0);
  EXPECT_EQ(MeasureLoad(one).evenness, 1.0);
  const double all_on_one[] = {0, 0, 9, 0, 0};
  const LoadStats stats = MeasureLoad(all_on_one);
  EXPECT_DOUBLE_EQ(stats.max_over_mean, 5.0);
  EXPECT_DOUBLE_EQ(stats.cv, 2.0);
  EXPECT_DOUBLE_EQ(stats.gini, 0.8);
  EXPECT_EQ(stats.entropy, 0.0);
  EXPECT_EQ(stats.evenness, 0.0);
}

void ExpectSame(const LoadStats& a, const LoadStats& b) {
  EXPECT_NEAR(a.max_over_mean, b.max_over_mean, 1e-12 * a.max_over_mean);
  EXPECT_NEAR(a.cv, b.cv, 1e-12);
  EXPECT_NEAR(a.gini, b.gini, 1e-12);
  EXPECT_NEAR(a.entropy, b.entropy, 1e-12);
  EXPECT_NEAR(a.evenness, b.evenness, 1e-12);
}

TEST(LoadStats, DoNotDependOnOrderOrScale) {
  std::mt19937 random(4);
  for (int trial = 0; trial < 300; ++trial) {
    std::vector<double> loads(1 + random() % 200);
    for (double& load : loads) load = random() % 3 == 0 ? 0.0 : random() % 10000;
    const LoadStats stats = MeasureLoad(loads);
    std::vector<double> other = loads;
    std::shuffle(other.begin(), other.end(), random);
    ExpectSame(stats, MeasureLoad(other));
    for (double& load : other) load *= 0.37;
    ExpectSame(stats, MeasureLoad(other));
    // The same loads twice are spread alike, over twice as many.
    other = loads;
    other.insert(other.end(), loads.begin(), loads.end());
    const LoadStats twice = MeasureLoad(other);
    EXPECT_NEAR(twice.gini, stats.gini, 1e-12);
    EXPECT_NEAR(twice.cv, stats.cv, 1e-12);
    if (stats.total > 0) {
      EXPECT_NEAR(twice.entropy, stats.entropy + std::log(2), 1e-12);
    }
  }
}

TEST(LoadStats, MovingLoadFromRichToPoorEvensIt) {
  std::mt19937 random(8);
  for (int trial = 0; trial < 300; ++trial) {
    std::vector<double> loads(3 + random() % 60);
    for (double& load : loads) load = 1 + random() % 1000;
    const auto [poor, rich] = std::minmax_element(loads.begin(), loads.end());
    if (*rich - *poor < 4) continue;
    const LoadStats before = MeasureLoad(loads);
    *rich -= 1;
    *poor += 1;
    const LoadStats after = MeasureLoad(loads);
    EXPECT_LT(after.gini, before.gini);
    EXPECT_LT(after.cv, before.cv);
    EXPECT_GT(after.entropy, before.entropy);
  }
}

}  // namespace
}  // namespace sluice
