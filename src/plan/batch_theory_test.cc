#include "plan/batch_theory.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <random>
#include <set>

#include "base/error.h"

namespace sluice {
namespace {

// 128 experts, 8 chosen, 48 layers, 0.387 ms an expert, computed with 40 decimal digits.
TEST(BatchTheory, RowsAgreeToThePrintedDigit) {
  const char* const expected[] = {"1 8.0 148.6 6.7 1.00",      "2 15.5 287.9 6.9 1.03",
                                  "4 29.1 541.0 7.4 1.10",     "8 51.6 958.9 8.3 1.24",
                                  "16 82.4 1531.1 10.5 1.55",  "32 111.8 2076.3 15.4 2.29",
                                  "64 125.9 2339.5 27.4 4.07", "128 128.0 2377.1 53.8 8.00"};
  const std::vector<int> n = {1, 2, 4, 8, 16, 32, 64, 128};
  const std::vector<BatchTheoryRow> rows = EvaluateTheory({}, n);
  ASSERT_EQ(rows.size(), std::size(expected));
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(
        fmt::format("{} {:.1f} {:.1f} {:.1f} {:.2f}", rows[i].sequences, rows[i].distinct_experts,
                    rows[i].step_ms, rows[i].tokens_per_s, rows[i].speedup),
        expected[i]);
  }
}

TEST(BatchTheory, WorkThatNothingHidesIsAdded) {
  const BatchTheory theory{.num_experts = 4,
                           .top_k = 4,
                           .num_layers = 3,
                           .expert_ms = 2.0,
                           .layer_ms = 1.0,
                           .sequence_ms = 0.5};
  const int n[] = {2};
  const BatchTheoryRow row = EvaluateTheory(theory, n).front();
  EXPECT_DOUBLE_EQ(row.step_ms, 3 * (4 * 2.0 + 1.0 + 2 * 0.5));
  EXPECT_DOUBLE_EQ(row.tokens_per_s, 2000.0 / 30.0);
  EXPECT_DOUBLE_EQ(row.speedup, row.tokens_per_s / (1000.0 / 28.5));
}

TEST(BatchTheory, DistinctExpertsAgreeWithDraws) {
  std::mt19937 random(3);
  for (const auto& [experts, top_k, tokens] : {std::tuple{60, 4, 8}, {128, 8, 32}, {8, 2, 3}}) {
    double sum = 0.0;
    constexpr int kTrials = 4000;
    for (int trial = 0; trial < kTrials; ++trial) {
      std::set<int> seen;
      for (int t = 0; t < tokens; ++t) {
        std::set<int> own;
        while (static_cast<int>(own.size()) < top_k)
          own.insert(static_cast<int>(random() % experts));
        seen.insert(own.begin(), own.end());
      }
      sum += static_cast<double>(seen.size());
    }
    EXPECT_NEAR(sum / kTrials, ExpectedDistinctExperts(experts, top_k, tokens), 0.2);
  }
}

TEST(BatchTheory, RefusesWhatCannotBe) {
  const int one[] = {1};
  const int none[] = {0};
  EXPECT_THROW(EvaluateTheory({.top_k = 129}, one), Error);
  EXPECT_THROW(EvaluateTheory({.top_k = 0}, one), Error);
  EXPECT_THROW(EvaluateTheory({.num_layers = 0}, one), Error);
  EXPECT_THROW(EvaluateTheory({.expert_ms = 0.0}, one), Error);
  EXPECT_THROW(EvaluateTheory({.layer_ms = -1.0}, one), Error);
  EXPECT_THROW(EvaluateTheory({}, none), Error);
}

}  // namespace
}  // namespace sluice
