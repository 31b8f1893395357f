#include "plan/co_execution.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace sluice {
namespace {

// When both are through with `share` on the host.
double End(const std::vector<int>& rows, double queued_s, const CoExecutionCosts& costs,
           int share) {
  const auto left = static_cast<int>(rows.size()) - share;
  double host = share == 0 ? 0.0 : costs.host_start_s;
  for (size_t i = left; i < rows.size(); ++i) {
    host += costs.host_s + (rows[i] - 1) * costs.host_row_s;
  }
  return std::max(host, left == 0 ? 0.0 : queued_s + left * costs.link_s);
}

TEST(CoExecution, SharesByTheirSpeeds) {
  // One token, eight experts: 200 us each over the link, 80 us each on the host.
  const CoExecutionCosts costs{.link_s = 200e-6, .host_s = 80e-6};
  EXPECT_EQ(HostShare(std::vector<int>(8, 1), 0.0, costs), 6);  // 480 us beside 400
  EXPECT_EQ(HostShare(std::vector<int>(1, 1), 0.0, costs), 1);
  EXPECT_EQ(HostShare({}, 0.0, costs), 0);
}

TEST(CoExecution, LeavesManyRowsToTheLink) {
  const CoExecutionCosts costs{.link_s = 200e-6, .host_s = 80e-6, .host_row_s = 70e-6};
  EXPECT_EQ(HostShare(std::vector<int>{64, 32}, 0.0, costs), 0);
  EXPECT_EQ(HostShare(std::vector<int>{64, 1}, 0.0, costs), 1);
}

TEST(CoExecution, StartsOnlyWhereItPays) {
  CoExecutionCosts costs{.link_s = 100e-6, .host_s = 80e-6, .host_start_s = 30e-6};
  EXPECT_EQ(HostShare(std::vector<int>{1}, 0.0, costs), 0);
  EXPECT_EQ(HostShare(std::vector<int>{1}, 50e-6, costs), 1);  // the link is busy
}

TEST(CoExecution, NoOtherShareEndsSooner) {
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    std::vector<int> rows(random() % 20);
    for (int& count : rows) count = 1 + static_cast<int>(random() % 12);
    std::sort(rows.rbegin(), rows.rend());
    const CoExecutionCosts costs{.link_s = 1.0 + random() % 9,
                                 .host_s = 1.0 + random() % 9,
                                 .host_row_s = 0.25 * (random() % 5),
                                 .host_start_s = 0.5 * (random() % 4)};
    const double queued_s = random() % 6;
    const int share = HostShare(rows, queued_s, costs);
    for (int other = 0; other <= static_cast<int>(rows.size()); ++other) {
      EXPECT_LE(End(rows, queued_s, costs, share), End(rows, queued_s, costs, other));
    }
  }
}

TEST(HostPace, FollowsWhatRunsTake) {
  HostPace pace;
  EXPECT_EQ(pace.value(), 1.0);
  for (int run = 0; run < 100; ++run) pace.NoteRun(2e-3, 1e-3);
  EXPECT_NEAR(pace.value(), 2.0, 0.01);
  for (int run = 0; run < 100; ++run) pace.NoteRun(0.5e-3, 1e-3);
  EXPECT_NEAR(pace.value(), 0.5, 0.01);
}

// Every twentieth run loses a core for the time of twenty.
TEST(HostPace, ARunThatWasHeldUpSaysLittle) {
  HostPace pace;
  double most = 0.0;
  for (int run = 0; run < 1000; ++run) {
    pace.NoteRun(run % 20 == 0 ? 20e-3 : 1e-3, 1e-3);
    most = std::max(most, pace.value());
  }
  EXPECT_LT(most, 1.3);
}

TEST(HostPace, NorDoesItStandForGoodOnceTheHostIsLeftOut) {
  HostPace pace;
  for (int run = 0; run < 100; ++run) pace.NoteRun(3e-3, 1e-3);
  for (int layer = 0; layer < 2048; ++layer) pace.NoteLeftOut();
  EXPECT_LT(pace.value(), 1.2);
}

}  // namespace
}  // namespace sluice
