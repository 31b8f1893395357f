#include "offload/link_pace.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

using std::chrono::microseconds;
using std::chrono::nanoseconds;
using TimePoint = LinkPace::Clock::time_point;

constexpr SimulatedLink k10MegabytesPerS = {.bytes_per_s = 1e7, .latency_s = 0};

TEST(LinkPace, ACopyTakesItsLatencyAndItsBytes) {
  LinkPace pace({.bytes_per_s = 2e8, .latency_s = 1e-3});
  const TimePoint queued(microseconds(500));
  const auto [begin, end] = pace.Next(queued, microseconds(20), 200'000);
  EXPECT_EQ(begin, queued);
  EXPECT_EQ(end - begin, microseconds(2000));
}

TEST(LinkPace, CopiesQueuedTogetherRunOneAfterAnother) {
  LinkPace pace(k10MegabytesPerS);
  const TimePoint queued(microseconds(500));
  for (int i = 0; i < 400; ++i) {
    const auto [begin, end] = pace.Next(queued, nanoseconds(50), 1000);
    EXPECT_EQ(begin, queued + i * microseconds(100));
    EXPECT_EQ(end, queued + (i + 1) * microseconds(100));
  }
}

TEST(LinkPace, RestsWhenNothingIsQueued) {
  LinkPace pace(k10MegabytesPerS);
  const TimePoint first(microseconds(500));
  const TimePoint second = first + microseconds(5000);
  EXPECT_EQ(pace.Next(first, nanoseconds(50), 1000).end, first + microseconds(100));
  EXPECT_EQ(pace.Next(second, nanoseconds(50), 1000).begin, second);
}

TEST(LinkPace, IsNoFasterThanMemory) {
  LinkPace pace(k10MegabytesPerS);
  const TimePoint queued(microseconds(500));
  EXPECT_EQ(pace.Next(queued, microseconds(130), 1000).end, queued + microseconds(130));
  EXPECT_EQ(pace.Next(queued, microseconds(10), 1000).end, queued + microseconds(230));
}

TEST(LinkPace, WithoutARateACopyTakesAsLongAsMemory) {
  LinkPace pace({});
  const TimePoint queued(microseconds(500));
  EXPECT_EQ(pace.Next(queued, microseconds(7), 1 << 20).end, queued + microseconds(7));
}

}  // namespace
}  // namespace sluice
