#include "base/side_thread.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>

namespace sluice {
namespace {

using namespace std::chrono_literals;

TEST(SideThread, WorksBesideItsCaller) {
  SideThread side;
  std::atomic<bool> begun{false};
  std::atomic<bool> go_on{false};
  side.Begin([&] {
    begun = true;
    while (!go_on) std::this_thread::yield();
  });
  while (!begun) std::this_thread::yield();
  go_on = true;
  side.Finish();
}

TEST(SideThread, DoesEachPieceOnceWhoeverComesFirst) {
  SideThread side;
  int done = 0;
  for (int i = 0; i < 2'000; ++i) {
    side.Begin([&] { ++done; });
    if (i % 3 == 0) std::this_thread::yield();
    side.Finish();
    ASSERT_EQ(done, i + 1);
  }
}

TEST(SideThread, TakesWorkWhenItHasSlept) {
  SideThread side;
  std::thread::id worker;
  for (int i = 0; i < 3; ++i) {
    std::this_thread::sleep_for(20ms);
    std::atomic<bool> done{false};
    side.Begin([&] {
      worker = std::this_thread::get_id();
      done = true;
    });
    while (!done) std::this_thread::yield();
    side.Finish();
    EXPECT_NE(worker, std::this_thread::get_id());
  }
}

TEST(SideThread, IsWhoCallsWhatComesFirst) {
  std::thread::id first;
  std::thread::id worker;
  {
    SideThread side([&] { first = std::this_thread::get_id(); });
    std::atomic<bool> done{false};
    side.Begin([&] {
      worker = std::this_thread::get_id();
      done = true;
    });
    while (!done) std::this_thread::yield();
  }
  EXPECT_EQ(first, worker);
}

TEST(SideThread, RethrowsAndStaysUsable) {
  SideThread side;
  side.Finish();  // of nothing
  side.Begin([] { throw std::runtime_error("no"); });
  EXPECT_THROW(side.Finish(), std::runtime_error);
  bool done = false;
  side.Begin([&] { done = true; });
  side.Finish();
  EXPECT_TRUE(done);
}

TEST(SideThread, EndsWithWhatWasBegun) {
  int done = 0;
  {
    SideThread side;
    side.Begin([&] { ++done; });
  }
  {
    SideThread side;
    side.Begin([&] {
      ++done;
      throw std::runtime_error("nobody asks");
    });
  }
  EXPECT_EQ(done, 2);
}

}  // namespace
}  // namespace sluice
