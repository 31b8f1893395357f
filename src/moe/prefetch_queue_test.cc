#include "moe/prefetch_queue.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "offload/testing.h"

namespace sluice {
namespace {

constexpr int kExperts = 6;
const std::vector<int> kLayers = {1, 3};
const std::vector<int32_t> kFirst = {1};   // what a token chooses in the first of them
const std::vector<int32_t> kSecond = {4};  // and behind it
const std::vector<int32_t> kNone(kExperts);

class PrefetchQueueTest : public ::testing::Test {
 protected:
  // A token that chooses the same in every step.
  void Learn(bool fills) {
    for (int step = 0; step < 20; ++step) {
      for (size_t nth = 0; nth < kLayers.size(); ++nth) {
        queue_.Observe(nth, nth == 0 ? kFirst : kSecond, fills);
        queue_.Judge((nth + 1) % kLayers.size(), kNone, kNone);
      }
    }
  }
  void Bring(int32_t expert) {
    ASSERT_EQ(queue_.Next(), expert);
    ASSERT_TRUE(store_.Fetch(kLayers[queue_.nth()], expert, FetchReason::kPrefetch));
    queue_.NoteAsked();
  }
  static std::vector<int32_t> Only(const std::vector<int32_t>& experts) {
    std::vector<int32_t> counts(kExperts);
    for (const int32_t expert : experts) ++counts[expert];
    return counts;
  }

  ExpertLayout layout_{.hidden = 4, .ffn = 3, .dtype = DType::kF32};
  ExpertSet experts_{kLayers, kExperts};
  testing::FakeSource source_;
  ThreadPool pool_{1};
  std::unique_ptr<ExpertLink> link_ = MakeThreadLink();
  HostExperts host_{layout_, experts_, {}, source_, pool_};
  ExpertStore store_{layout_,
                     {.experts = experts_, .num_slots = 3, .link = link_.get(), .host = &host_},
                     source_,
                     pool_};
  PrefetchQueue queue_{store_, 1};
};

TEST_F(PrefetchQueueTest, OffersWhatTheNextLayerIsExpectedToNeed) {
  Learn(false);
  queue_.Observe(0, kFirst, true);
  EXPECT_EQ(queue_.nth(), 1u);
  ASSERT_EQ(queue_.Next(), 4);
  EXPECT_FALSE(queue_.AnyAsked());
  Bring(4);
  EXPECT_TRUE(queue_.AnyAsked());
  EXPECT_NE(queue_.Next(), 4);
  EXPECT_EQ(queue_.Judge(1, Only(kSecond), kNone), 1u);
  EXPECT_FALSE(queue_.AnyAsked());
  EXPECT_FALSE(queue_.Next());
  // It has a slot now.
  queue_.Observe(0, kFirst, true);
  EXPECT_NE(queue_.Next(), 4);
}

TEST_F(PrefetchQueueTest, ComesRoundToTheFirstLayer) {
  Learn(false);
  queue_.Observe(1, kSecond, true);
  EXPECT_EQ(queue_.nth(), 0u);
  EXPECT_EQ(queue_.Next(), 1);
}

TEST_F(PrefetchQueueTest, IsEmptyWhereNothingIsToBeBrought) {
  Learn(true);
  queue_.Observe(0, kFirst, false);
  EXPECT_FALSE(queue_.Next());
}

TEST_F(PrefetchQueueTest, WhatWasNotNeededOrAskedForAgainWasNotUsed) {
  Learn(false);
  queue_.Observe(0, kFirst, true);
  Bring(4);
  EXPECT_EQ(queue_.Judge(1, Only({2}), kNone), 0u);
  queue_.Observe(1, kSecond, true);
  Bring(1);
  EXPECT_EQ(queue_.Judge(0, Only(kFirst), Only({1})), 0u);
}

}  // namespace
}  // namespace sluice
