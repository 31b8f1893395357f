#include "kv/page_allocator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>

#include <memory>
#include <new>
#include <set>
#include <sstream>
#include <utility>

#include "base/log.h"

namespace sluice {
namespace {

TEST(PageAllocator, GivesEachPageOnce) {
  PageAllocator allocator(5);
  std::vector<PageHandle> handles;
  std::set<PageId> ids;
  for (int i = 0; i < 5; ++i) {
    handles.push_back(allocator.Allocate());
    ASSERT_TRUE(handles.back().valid());
    ids.insert(handles.back().id());
  }
  EXPECT_THAT(ids, testing::ElementsAre(0, 1, 2, 3, 4));
  EXPECT_EQ(allocator.num_free(), 0);
  EXPECT_FALSE(allocator.Allocate().valid());
}

TEST(PageAllocator, TakesBackAPageWithItsLastShare) {
  PageAllocator allocator(1);
  PageHandle first = allocator.Allocate();
  {
    const PageHandle second = first;  // NOLINT(performance-unnecessary-copy-initialization)
    EXPECT_EQ(allocator.shares(first.id()), 2);
    EXPECT_EQ(second.id(), first.id());
  }
  EXPECT_EQ(allocator.shares(0), 1);
  EXPECT_EQ(allocator.num_free(), 0);
  first = PageHandle();
  EXPECT_EQ(allocator.shares(0), 0);
  EXPECT_EQ(allocator.num_free(), 1);
  EXPECT_TRUE(allocator.Allocate().valid());
}

TEST(PageAllocator, MovedHandlesHoldNothing) {
  PageAllocator allocator(2);
  PageHandle from = allocator.Allocate();
  PageHandle to = std::move(from);
  EXPECT_FALSE(from.valid());  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(allocator.shares(to.id()), 1);
  from = PageHandle();
  EXPECT_EQ(allocator.num_free(), 1);
  PageHandle& itself = to;
  to = itself;
  EXPECT_EQ(allocator.shares(to.id()), 1);
  to = allocator.Allocate();
  EXPECT_EQ(allocator.num_free(), 1);
}

TEST(PageAllocator, EveryPageIsFreeAfterEveryHandleIsGone) {
  PageAllocator allocator(8);
  {
    std::vector<PageHandle> handles;
    for (int i = 0; i < 8; ++i) handles.push_back(allocator.Allocate());
    const std::vector<PageHandle> copies = handles;
    handles.resize(3);
    EXPECT_EQ(allocator.num_free(), 0);
    EXPECT_EQ(copies.size(), 8u);
  }
  EXPECT_EQ(allocator.num_free(), 8);
  for (PageId id = 0; id < 8; ++id) EXPECT_EQ(allocator.shares(id), 0);
}

TEST(PageAllocator, KeepsWhatIsSealedUntilNoOtherPageIsFree) {
  PageAllocator allocator(3);
  std::vector<PageId> evicted;
  allocator.OnEviction([&](PageId id) { evicted.push_back(id); });
  PageHandle kept = allocator.Allocate();
  const PageId id = kept.id();
  allocator.Seal(id);
  EXPECT_EQ(allocator.num_cached(), 0);
  kept = PageHandle();
  EXPECT_EQ(allocator.num_free(), 3);
  EXPECT_EQ(allocator.num_cached(), 1);
  kept = allocator.Share(id);
  EXPECT_EQ(allocator.num_free(), 2);
  EXPECT_EQ(allocator.num_cached(), 0);
  EXPECT_TRUE(allocator.sealed(id));
  kept = PageHandle();
  const PageHandle a = allocator.Allocate();
  const PageHandle b = allocator.Allocate();
  EXPECT_TRUE(evicted.empty());
  const PageHandle c = allocator.Allocate();
  EXPECT_EQ(c.id(), id);
  EXPECT_THAT(evicted, testing::ElementsAre(id));
  EXPECT_FALSE(allocator.sealed(id));
  EXPECT_EQ(allocator.num_free() + allocator.num_cached(), 0);
}

TEST(PageAllocator, WhatIsUnsealedIsAsAnyOther) {
  PageAllocator allocator(2);
  allocator.OnEviction([](PageId id) { ADD_FAILURE() << "evicted " << id; });
  {
    const PageHandle first = allocator.Allocate();
    const PageHandle second = allocator.Allocate();
    allocator.Seal(first.id());
    allocator.Seal(second.id());
    allocator.Unseal(second.id());
    EXPECT_FALSE(allocator.sealed(second.id()));
  }
  EXPECT_EQ(allocator.num_cached(), 1);
  allocator.Unseal(0);
  EXPECT_EQ(allocator.num_cached(), 0);
  EXPECT_EQ(allocator.num_free(), 2);
  const PageHandle first = allocator.Allocate();
  const PageHandle second = allocator.Allocate();
  EXPECT_TRUE(second.valid());
}

TEST(PageList, GivesItsPagesBackFromTheLast) {
  PageAllocator allocator(3);
  {
    PageList pages;
    for (int i = 0; i < 3; ++i) {
      pages.push_back(allocator.Allocate());
      allocator.Seal(pages[i]);
    }
    PageList moved = std::move(pages);
    moved.Truncate(2);
    EXPECT_EQ(allocator.num_free(), 1);
  }
  std::vector<PageId> order;
  std::vector<PageHandle> taken;
  for (int i = 0; i < 3; ++i) {
    taken.push_back(allocator.Allocate());
    order.push_back(taken.back().id());
  }
  EXPECT_THAT(order, testing::ElementsAre(2, 1, 0));
}

TEST(PageAllocator, LogsALeak) {
  std::ostringstream out;
  const auto saved = spdlog::default_logger();
  spdlog::set_default_logger(std::make_shared<spdlog::logger>(
      "test", std::make_shared<spdlog::sinks::ostream_sink_mt>(out)));
  alignas(PageHandle) std::byte storage[sizeof(PageHandle)];
  {
    PageAllocator allocator(3);
    new (storage) PageHandle(allocator.Allocate());  // never destroyed
  }
  const std::string leak_log = out.str();
  { PageAllocator allocator(3); }
  spdlog::set_default_logger(saved);
  EXPECT_THAT(leak_log, testing::HasSubstr("1 of 3 KV pages"));
  EXPECT_EQ(out.str(), leak_log);
}

}  // namespace
}  // namespace sluice
