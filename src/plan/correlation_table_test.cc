#include "plan/correlation_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

namespace sluice {
namespace {

using Experts = std::vector<uint16_t>;

std::vector<double> Predict(CorrelationTable& table, int layer, const Experts& from, int experts) {
  std::vector<double> expected(static_cast<size_t>(experts), -1.0);
  table.Predict(layer, from, expected);
  return expected;
}

double TrustIn(const CorrelationTable& table, Forecast forecast) {
  return table.Trust(0)[static_cast<size_t>(forecast)];
}

TEST(CorrelationTable, LearnsWhatFollowsWhat) {
  CorrelationTable table(2, 4, 1, {.prior = 1.0});
  // After 0 comes 1 three times of four, and 2 once; after 3 comes 2. All in one batch, which is
  // weighed before anything is known: all forecasts are trusted alike.
  table.Learn(0, Experts{0, 0, 0, 0, 3, 3}, Experts{1, 1, 2, 1, 2, 2});
  EXPECT_THAT(table.Trust(0), ::testing::Each(0.25));
  std::vector<double> frequencies(4);
  table.Frequencies(0, frequencies);
  EXPECT_THAT(frequencies, ::testing::ElementsAre(0.0, 0.5, 0.5, 0.0));
  // The row of 0: four tokens of its own and one of the frequencies. 1 has 3.5 / 5, odds of 7 / 3;
  // 2 has 1.5 / 5, odds of 3 / 7; by the root of the odds they have 0.6044 and 0.3956.
  const std::vector<double> after_0 = Predict(table, 0, {0}, 4);
  const double root = std::sqrt(7.0 / 3);
  EXPECT_NEAR(after_0[1], (0.5 + 0.7 + 0.7 + root / (1 + root)) / 4, 1e-4);
  EXPECT_NEAR(after_0[2], (0.5 + 0.3 + 0.3 + 1 / (1 + root)) / 4, 1e-4);
  // Nothing is known of 2: the frequencies.
  EXPECT_NEAR(Predict(table, 0, {2}, 4)[1], 0.5, 1e-4);
  // Two tokens are expected where each of them is.
  const std::vector<double> both = Predict(table, 0, {0, 3}, 4);
  EXPECT_NEAR(both[2], after_0[2] + Predict(table, 0, {3}, 4)[2], 1e-9);
  // The other layer has learned nothing.
  EXPECT_THAT(Predict(table, 1, {0}, 4), ::testing::Each(0.0));
}

TEST(CorrelationTable, TrustsWhatForetellsBest) {
  CorrelationTable linked(1, 8, 1, {});
  CorrelationTable unlinked(1, 8, 1, {});
  std::mt19937 random(5);
  for (int i = 0; i < 2000; ++i) {
    const auto from = static_cast<uint16_t>(random() % 8);
    linked.Learn(0, Experts{from}, Experts{static_cast<uint16_t>(7 - from)});
    unlinked.Learn(0, Experts{from}, Experts{static_cast<uint16_t>(random() % 8)});
  }
  EXPECT_LT(TrustIn(linked, Forecast::kFrequency), 0.001);
  EXPECT_GT(Predict(linked, 0, {2}, 8)[5], 0.9);
  EXPECT_GT(TrustIn(unlinked, Forecast::kFrequency), 0.1);
  // What was linked comes apart: trust turns.
  for (int i = 0; i < 300; ++i) {
    linked.Learn(0, Experts{static_cast<uint16_t>(random() % 8)},
                 Experts{static_cast<uint16_t>(random() % 8)});
  }
  EXPECT_GT(TrustIn(linked, Forecast::kFrequency), 0.9);
}

TEST(CorrelationTable, SeesWhetherRowsAreIndependent) {
  std::mt19937 random(6);
  CorrelationTable apart(1, 16, 4, {});
  for (int i = 0; i < 4000; ++i) {
    Experts order(16);
    std::iota(order.begin(), order.end(), uint16_t{0});
    std::shuffle(order.begin(), order.end(), random);
    order.resize(4);
    Experts to = order;
    for (uint16_t& expert : to) expert = static_cast<uint16_t>(15 - expert);
    apart.Learn(0, order, to);
  }
  // Each follows one of the four: the odds know it, the mean of rows does not.
  EXPECT_GT(TrustIn(apart, Forecast::kOdds), 0.9);
  const std::vector<double> expected = Predict(apart, 0, {1, 5, 9, 12}, 16);
  for (const size_t e : {14, 10, 6, 3}) EXPECT_GT(expected[e], 0.7);
}

TEST(CorrelationTable, ExpectsAsManyChoicesAsTokensMake) {
  std::mt19937 random(3);
  for (const int row_entries : {0, 1, 5, 12, 64}) {
    for (const double half_life : {0.0, 30.0}) {
      CorrelationTable table(1, 12, 3, {.row_entries = row_entries, .half_life = half_life});
      Experts from;
      Experts to;
      for (int t = 0; t < 400; ++t) {
        Experts order(12);
        std::iota(order.begin(), order.end(), uint16_t{0});
        std::shuffle(order.begin(), order.end(), random);
        from.insert(from.end(), order.begin(), order.begin() + 3);
        to.insert(to.end(), order.begin() + 2, order.begin() + 5);
      }
      table.Learn(0, from, to);
      const std::vector<double> expected = Predict(table, 0, {1, 5, 7, 0, 1, 11}, 12);
      EXPECT_NEAR(std::accumulate(expected.begin(), expected.end(), 0.0), 6.0, 1e-3);
      EXPECT_GE(*std::min_element(expected.begin(), expected.end()), 0.0);
    }
  }
}

TEST(CorrelationTable, ForgetsByHalf) {
  const auto after_change = [](double half_life) {
    CorrelationTable table(1, 3, 1, {.half_life = half_life, .prior = 1e-9});
    table.Learn(0, Experts(100, 0), Experts(100, 1));
    table.Learn(0, Experts(10, 0), Experts(10, 2));
    return Predict(table, 0, {0}, 3)[2];
  };
  // Rows and frequencies alike: there is but one expert before.
  EXPECT_NEAR(after_change(0.0), 10 / 110.0, 1e-6);
  EXPECT_NEAR(after_change(10.0), 0.5, 2e-3);
  EXPECT_NEAR(after_change(1.0), 1.0, 2e-3);
}

TEST(CorrelationTable, StaysInRangeForEver) {
  CorrelationTable table(1, 2, 1, {.half_life = 0.5});
  for (int i = 0; i < 1000; ++i) table.Learn(0, Experts{0, 0, 0, 1}, Experts{1, 1, 1, 0});
  // Of the four last tokens with their weights, 1, 1/4 ...: expert 0 was last seen one token ago.
  const std::vector<double> expected = Predict(table, 0, {0}, 2);
  EXPECT_GT(expected[0], 0.0);
  EXPECT_GT(expected[1], 0.0);
  EXPECT_NEAR(expected[0] + expected[1], 1.0, 1e-5);
}

TEST(CorrelationTable, ShortRowsKeepTheStrongest) {
  CorrelationTable table(1, 40, 1, {.row_entries = 2, .prior = 1e-9});
  std::mt19937 random(7);
  for (int i = 0; i < 3000; ++i) {
    const uint32_t draw = random() % 10;
    const auto to = static_cast<uint16_t>(draw < 5 ? 7 : draw < 8 ? 9 : 10 + random() % 30);
    table.Learn(0, Experts{0}, Experts{to});
  }
  const std::vector<double> expected = Predict(table, 0, {0}, 40);
  EXPECT_GT(expected[7], expected[9]);
  for (size_t e = 10; e < 40; ++e) EXPECT_LT(expected[e], expected[9]);
  EXPECT_LT(table.Bytes(), CorrelationTable(1, 40, 1, {}).Bytes());
}

}  // namespace
}  // namespace sluice
