#include "sched/restart_budget.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(RestartBudget, PausesDoubleUntilTheTriesAreUsedUp) {
  RestartBudget budget({.most = 4, .within = seconds(100), .first_pause = milliseconds(500)});
  const RestartBudget::TimePoint start{};
  EXPECT_EQ(budget.Take(start), milliseconds(0));
  EXPECT_EQ(budget.Take(start + seconds(1)), milliseconds(500));
  EXPECT_EQ(budget.Take(start + seconds(2)), milliseconds(1000));
  EXPECT_EQ(budget.Take(start + seconds(99)), milliseconds(2000));
  EXPECT_EQ(budget.Take(start + seconds(99)), std::nullopt);
}

TEST(RestartBudget, OldTriesAreForgotten) {
  RestartBudget budget({.most = 2, .within = seconds(100), .first_pause = milliseconds(500)});
  const RestartBudget::TimePoint start{};
  EXPECT_EQ(budget.Take(start), milliseconds(0));
  EXPECT_EQ(budget.Take(start + seconds(60)), milliseconds(500));
  EXPECT_EQ(budget.Take(start + seconds(99)), std::nullopt);
  EXPECT_EQ(budget.Take(start + seconds(100)), milliseconds(500));
  EXPECT_EQ(budget.Take(start + seconds(500)), milliseconds(0));
}

}  // namespace
}  // namespace sluice
