#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

namespace sluice {
namespace {

TEST(ThreadPool, VisitsEveryIndexOnce) {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (int64_t count : {0, 1, 2, 7, 64, 1000}) {
      for (int64_t grain : {1, 3, 64}) {
        std::vector<std::atomic<int>> visits(count);
        pool.ParallelFor(count, grain, [&](int64_t begin, int64_t end, int thread) {
          EXPECT_GE(thread, 0);
          EXPECT_LT(thread, threads);
          for (int64_t i = begin; i < end; ++i) visits[i].fetch_add(1);
        });
        for (const auto& visit : visits) EXPECT_EQ(visit.load(), 1);
      }
    }
  }
}

TEST(ThreadPool, RethrowsTheFirstErrorAndStaysUsable) {
  ThreadPool pool(3);
  EXPECT_THROW(
      pool.ParallelFor(100, 1, [](int64_t, int64_t, int) { throw std::runtime_error("no"); }),
      std::runtime_error);
  std::atomic<int64_t> sum{0};
  pool.ParallelFor(10, 1, [&](int64_t begin, int64_t, int) { sum += begin; });
  EXPECT_EQ(sum.load(), 45);
}

TEST(ThreadPool, TakesLoopsOfMorePiecesThanItCounts) {
  ThreadPool pool(3);
  constexpr int64_t kCount = 200'001;
  std::vector<std::atomic<int>> visits(kCount);
  pool.ParallelFor(kCount, 2, [&](int64_t begin, int64_t end, int) {
    EXPECT_EQ(begin % 2, 0);
    for (int64_t i = begin; i < end; ++i) visits[i].fetch_add(1);
  });
  for (const auto& visit : visits) ASSERT_EQ(visit.load(), 1);
}

TEST(ThreadPool, ThreadsTakeOverWhatAnotherCannotBegin) {
  ThreadPool pool(2);
  // The first piece of a share keeps its thread until every other piece is done.
  for (const int64_t held : {0, 4}) {
    std::atomic<int> done{0};
    pool.ParallelFor(8, 1, [&](int64_t begin, int64_t, int) {
      while (begin == held && done.load() < 7) std::this_thread::yield();
      done.fetch_add(1);
    });
    EXPECT_EQ(done.load(), 8);
  }
}

TEST(ThreadPool, ThreadsBeginWithTheSamePartOfEveryLoop) {
  ThreadPool pool(2);
  for (int i = 0; i < 100; ++i) {
    std::atomic<int> arrived{0};
    std::array<std::atomic<int>, 2> by{-1, -1};
    // Both pieces wait for each other, so that each thread has one.
    pool.ParallelFor(2, 1, [&](int64_t begin, int64_t, int thread) {
      by[begin] = thread;
      arrived.fetch_add(1);
      while (arrived.load() < 2) std::this_thread::yield();
    });
    EXPECT_EQ(by[0].load(), 0);
    EXPECT_EQ(by[1].load(), 1);
  }
}

TEST(ThreadPool, LoopsAfterASleepAreWhole) {
  ThreadPool pool(4);
  std::atomic<int64_t> total{0};
  for (int i = 0; i < 20; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));  // the team sleeps by then
    for (int loop = 0; loop < 3; ++loop) {
      pool.ParallelFor(16, 1, [&](int64_t, int64_t, int) { total.fetch_add(1); });
    }
  }
  EXPECT_EQ(total.load(), 20 * 3 * 16);
}

TEST(ThreadPool, ManyShortLoops) {
  ThreadPool pool(2);
  std::atomic<int64_t> total{0};
  for (int i = 0; i < 5000; ++i) {
    pool.ParallelFor(4, 1, [&](int64_t, int64_t, int) { total.fetch_add(1); });
  }
  EXPECT_EQ(total.load(), 20000);
}

}  // namespace
}  // namespace sluice
