#include "offload/expert_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "offload/testing.h"

namespace sluice {
namespace {

using testing::BeginRun;
using testing::BringAll;
using ::testing::HasSubstr;
using testing::Holds;
using testing::RunLayer;
using testing::ValueOf;
using Place = ExpertStore::Place;

constexpr int kExperts = 6;
const std::vector<int> kLayers = {1, 3};
constexpr FetchReason kDemand = FetchReason::kDemand;
constexpr FetchReason kPrefetch = FetchReason::kPrefetch;

class ExpertStoreTest : public ::testing::Test {
 protected:
  ExpertStore Make(int num_slots, EvictionPolicy policy = EvictionPolicy::kLru) {
    return ExpertStore(layout_,
                       {.experts = experts_,
                        .num_slots = num_slots,
                        .poison_freed = true,
                        .link = link_.get(),
                        .host = host_.get(),
                        .eviction = policy},
                       source_, pool_);
  }
  void MakeHost(int num_slots) {
    host_ = std::make_unique<HostExperts>(
        layout_, experts_, HostExperts::Options{.num_slots = num_slots}, source_, pool_);
  }
  // With a host tier and a link, every expert in host memory unless said otherwise.
  void MakeTiers(std::unique_ptr<ExpertLink> link, int host_slots = 0) {
    link_ = std::move(link);
    MakeHost(host_slots);
  }

  ExpertLayout layout_{.hidden = 4, .ffn = 3, .dtype = DType::kF32};
  ExpertSet experts_{kLayers, kExperts};
  testing::FakeSource source_;
  ThreadPool pool_{2};
  std::unique_ptr<ExpertLink> link_;
  std::unique_ptr<HostExperts> host_;
};

TEST_F(ExpertStoreTest, ResidentStoreReadsEachExpertOnce) {
  ExpertStore store = Make(0);
  EXPECT_TRUE(store.AllResident());
  EXPECT_EQ(source_.reads, 12);
  const std::vector<int32_t> experts = {5, 0, 2};
  const ExpertLease lease = RunLayer(store, 3, experts);
  for (size_t i = 0; i < experts.size(); ++i) {
    EXPECT_TRUE(Holds(store, lease.slots()[i], ValueOf(3, experts[i])));
  }
  EXPECT_EQ(store.misses(), 0u);
}

TEST_F(ExpertStoreTest, ResidentStoreHasATableOfSlots) {
  ExpertStore store = Make(0);
  for (const int layer : kLayers) {
    const ConstTensorView table = store.SlotTable(layer);
    ASSERT_EQ(table.shape(), Shape({kExperts}));
    for (int e = 0; e < kExperts; ++e) {
      EXPECT_TRUE(Holds(store, table.data<int32_t>()[e], ValueOf(layer, e)));
    }
  }
  EXPECT_THROW(Make(11).SlotTable(1), InternalError);
}

TEST_F(ExpertStoreTest, TheSourceKnowsALaterRanksExpertsByOtherIds) {
  experts_ = ExpertSet(kLayers, 2, /*first_expert=*/4);
  ExpertStore store = Make(1);
  EXPECT_TRUE(Holds(store, RunLayer(store, 3, {1}).slots()[0], ValueOf(3, 5)));
}

TEST_F(ExpertStoreTest, DeviceStoreHoldsWhatWasRead) {
  if (CudaDevices().empty()) GTEST_SKIP() << "no CUDA device";
  CudaStream stream;
  ExpertStore::Options options{.experts = experts_, .memory = MemoryKind::kCuda, .stream = &stream};
  const ExpertStore store(layout_, options, source_, pool_);
  EXPECT_EQ(source_.reads, 12);
  std::vector<std::byte> slab(12 * layout_.SlotBytes());
  stream.Copy(slab.data(), store.slab(), slab.size());
  for (const int layer : kLayers) {
    int32_t table[kExperts];
    stream.Copy(table, store.SlotTable(layer).raw(), sizeof(table));
    stream.Synchronize();
    for (int e = 0; e < kExperts; ++e) {
      const auto* slot =
          reinterpret_cast<const float*>(slab.data() + table[e] * layout_.SlotBytes());
      const auto* down = slot + layout_.DownOffset() / static_cast<int64_t>(sizeof(float));
      EXPECT_EQ(slot[23], ValueOf(layer, e));
      EXPECT_EQ(down[11], ValueOf(layer, e));
    }
  }
  source_.BreakLayer(3);
  EXPECT_THROW(ExpertStore(layout_, options, source_, pool_), Error);
  options.num_slots = 11;
  EXPECT_THROW(ExpertStore(layout_, options, source_, pool_), Error);
}

TEST_F(ExpertStoreTest, EvictsTheLeastRecentlyUsedAndPoisonsIt) {
  ExpertStore store = Make(2);
  const int32_t slot_of_zero = RunLayer(store, 1, {0}).slots()[0];
  RunLayer(store, 1, {1});
  RunLayer(store, 1, {0});
  EXPECT_EQ(store.misses(), 2u);
  const ExpertLease lease = RunLayer(store, 3, {2});  // expert 1 of layer 1 was used longest ago
  EXPECT_NE(lease.slots()[0], slot_of_zero);
  EXPECT_TRUE(Holds(store, lease.slots()[0], ValueOf(3, 2)));
  EXPECT_EQ(RunLayer(store, 1, {0}).slots()[0], slot_of_zero);
  EXPECT_EQ(store.misses(), 3u);
  EXPECT_EQ(store.requests(), 5u);
}

TEST_F(ExpertStoreTest, NeverEvictsWhatALeaseHolds) {
  ExpertStore store = Make(3);
  const ExpertLease held = RunLayer(store, 1, {0, 1});
  store.BeginLayer(3);
  EXPECT_TRUE(store.Fetch(3, 2, kDemand));
  EXPECT_FALSE(store.Fetch(3, 3, kDemand));  // two are pinned, one is for this layer
  store.Pump(true);
  held.CheckUnchanged();
  EXPECT_TRUE(Holds(store, held.slots()[0], ValueOf(1, 0)));
  EXPECT_TRUE(Holds(store, held.slots()[1], ValueOf(1, 1)));
}

TEST_F(ExpertStoreTest, SeveralLeasesHoldASlotUntilTheLastEnds) {
  ExpertStore store = Make(1);
  std::optional<ExpertLease> first(RunLayer(store, 1, {0}));
  std::optional<ExpertLease> second(store.Pin(1, std::vector{0}));
  first.reset();
  EXPECT_FALSE(store.Fetch(3, 0, kDemand));
  second.reset();
  EXPECT_TRUE(store.Fetch(3, 0, kDemand));
}

TEST_F(ExpertStoreTest, KeepsWhatTheRunNeedsUntilItWasPinned) {
  ExpertStore store = Make(2);
  RunLayer(store, 1, {0, 1});
  const std::vector<int32_t> needed = {1, 2, 3};
  BeginRun(store, 1, needed);
  EXPECT_TRUE(store.Fetch(1, 2, kDemand));  // takes 0's slot, not 1's, though that is older
  EXPECT_FALSE(store.Fetch(1, 3, kDemand));
  EXPECT_EQ(store.PlaceOf(1, 1), Place::kSlot);
  { const ExpertLease wave = store.Pin(1, std::vector{1}); }
  EXPECT_TRUE(store.Fetch(1, 3, kDemand));  // 1 has been used
  EXPECT_EQ(store.PlaceOf(1, 1), Place::kAway);
}

TEST_F(ExpertStoreTest, KeepsNothingForARunThatIsOver) {
  ExpertStore store = Make(1);
  BeginRun(store, 1, std::vector{0});
  ASSERT_TRUE(store.Fetch(1, 0, kDemand));
  store.Pump(true);
  store.BeginLayer(3);
  EXPECT_TRUE(store.Fetch(3, 0, kDemand));
}

TEST_F(ExpertStoreTest, OfLayersInACycleLruHitsNothingAndExpectedKeepsSome) {
  experts_ = ExpertSet({0, 1, 2, 3, 4, 5, 6, 7}, kExperts);
  const std::vector<int32_t> all = {0, 1, 2, 3, 4, 5};
  const auto misses_of_last_round = [&](EvictionPolicy policy) {
    ExpertStore store = Make(24, policy);
    uint64_t before = 0;
    for (int round = 0; round < 8; ++round) {
      before = store.misses();
      for (int layer = 0; layer < 8; ++layer) RunLayer(store, layer, all);
    }
    EXPECT_EQ(store.requests(), 8u * 48u);
    return store.misses() - before;
  };
  EXPECT_EQ(misses_of_last_round(EvictionPolicy::kLru), 48u);
  EXPECT_LE(misses_of_last_round(EvictionPolicy::kExpected), 30u);
}

TEST_F(ExpertStoreTest, ReadsBesideTheCaller) {
  ExpertStore store = Make(3);
  source_.Hold(true);
  for (int e = 0; e < 3; ++e) ASSERT_TRUE(store.Fetch(1, e, kDemand));
  EXPECT_TRUE(store.Pump(false));
  EXPECT_EQ(store.PlaceOf(1, 0), Place::kReading);
  EXPECT_FALSE(store.Ready(1, 0));
  EXPECT_FALSE(store.Fetch(3, 0, kDemand));  // all slots are being read to
  source_.Hold(false);
  int pumped = 0;
  while (store.Pump(true)) ++pumped;
  EXPECT_GE(pumped, 1);
  for (int e = 0; e < 3; ++e) EXPECT_TRUE(store.Ready(1, e));
}

TEST_F(ExpertStoreTest, AFailedReadIsNamedAndLeavesTheOthers) {
  ExpertStore store = Make(2);
  source_.Break(3, 1);
  BeginRun(store, 3, std::vector{0, 1});
  ASSERT_TRUE(store.Fetch(3, 0, kDemand));
  ASSERT_TRUE(store.Fetch(3, 1, kDemand));
  while (store.Pump(true)) continue;
  EXPECT_EQ(store.PlaceOf(3, 0), Place::kSlot);
  ASSERT_EQ(store.PlaceOf(3, 1), Place::kFailed);
  EXPECT_EQ(store.TakeFailure(3, 1), "expert 1 of layer 3 could not be read: the disk is gone");
  EXPECT_EQ(store.PlaceOf(3, 1), Place::kAway);
  source_.Mend();
  const ExpertLease lease = BringAll(store, 3, std::vector{0, 1});
  EXPECT_TRUE(Holds(store, lease.slots()[1], ValueOf(3, 1)));
}

TEST_F(ExpertStoreTest, APrefetchThatFailsIsForTheDemandToTryAgain) {
  ExpertStore store = Make(2);
  source_.Break(3, 1);
  ASSERT_TRUE(store.Fetch(3, 1, kPrefetch));
  while (store.Pump(true)) continue;
  EXPECT_EQ(store.PlaceOf(3, 1), Place::kAway);
}

TEST_F(ExpertStoreTest, FreedSlotsHoldPoison) {
  ExpertStore store = Make(1);
  const int32_t slot = RunLayer(store, 1, {0}).slots()[0];
  source_.BreakLayer(3);
  EXPECT_THROW(RunLayer(store, 3, {0}), Error);  // evicts, then cannot fill
  EXPECT_TRUE(
      std::isnan(*reinterpret_cast<const float*>(store.slab() + slot * layout_.SlotBytes())));
}

TEST_F(ExpertStoreTest, APrefetchTakesNoSlotOfWhatIsNeededSooner) {
  ExpertStore store = Make(3, EvictionPolicy::kExpected);
  std::vector<double> expected(kExperts);
  RunLayer(store, 1, {0, 1, 2});
  store.BeginLayer(3);
  expected = {20, 20, 20, 0, 0, 0.5};
  store.Expect(1, expected);  // the three come again one layer from now
  expected = {0.1, 0, 0, 0, 0, 0};
  store.Expect(3, expected);
  EXPECT_FALSE(store.Fetch(3, 0, kPrefetch));
  EXPECT_FALSE(store.Fetch(1, 5, kPrefetch));
  expected = {20, 0.01, 20, 0, 0, 20};
  store.Expect(1, expected);
  EXPECT_TRUE(store.Fetch(1, 5, kPrefetch));  // in the place of 1
  EXPECT_EQ(store.PlaceOf(1, 1), Place::kAway);
}

TEST_F(ExpertStoreTest, APrefetchTakesNothingPinnedPrefetchedOrNeeded) {
  ExpertStore store = Make(3);
  std::optional<ExpertLease> pinned(RunLayer(store, 1, {0}));
  BeginRun(store, 1, std::vector{0, 1});
  ASSERT_TRUE(store.Fetch(1, 1, kDemand));
  ASSERT_TRUE(store.Fetch(3, 0, kPrefetch));
  while (store.Pump(true)) continue;
  store.Expect(3, std::vector<double>(kExperts, 50.0));
  EXPECT_FALSE(store.Fetch(3, 1, kPrefetch));
  // Its layer's run ends without it.
  BeginRun(store, 3, std::vector<int32_t>{});
  store.BeginLayer(1);
  store.Expect(3, std::vector<double>{0, 50, 0, 0, 0, 0});
  pinned.reset();
  EXPECT_TRUE(store.Fetch(3, 1, kPrefetch));
}

TEST_F(ExpertStoreTest, ADemandTakesAPrefetchedSlotWhereThereIsNoOther) {
  ExpertStore store = Make(2);
  RunLayer(store, 1, {0});
  ASSERT_TRUE(store.Fetch(3, 0, kPrefetch));
  while (store.Pump(true)) continue;
  BeginRun(store, 1, std::vector{1, 2});
  ASSERT_TRUE(store.Fetch(1, 1, kDemand));
  EXPECT_EQ(store.PlaceOf(3, 0), Place::kSlot);
  ASSERT_TRUE(store.Fetch(1, 2, kDemand));
  EXPECT_EQ(store.PlaceOf(3, 0), Place::kAway);
}

TEST_F(ExpertStoreTest, APrefetchedExpertThatItsLayerDoesNotNeedLeavesFirst) {
  ExpertStore store = Make(2, EvictionPolicy::kExpected);
  RunLayer(store, 1, {0});
  ASSERT_TRUE(store.Fetch(3, 0, kPrefetch));
  while (store.Pump(true)) continue;
  BeginRun(store, 3, std::vector{1});
  ASSERT_TRUE(store.Fetch(3, 1, kDemand));
  EXPECT_EQ(store.PlaceOf(3, 0), Place::kAway);
  EXPECT_EQ(store.PlaceOf(1, 0), Place::kSlot);  // which comes sooner
}

TEST_F(ExpertStoreTest, WhatARunKeepsLeavesForNoDemandOfIt) {
  ExpertStore store = Make(2);
  RunLayer(store, 1, {0});
  BeginRun(store, 1, std::vector{1, 2});
  store.Keep(1, 0);
  ASSERT_TRUE(store.Fetch(1, 1, kDemand));
  while (store.Pump(true)) continue;
  EXPECT_FALSE(store.Fetch(1, 2, kDemand));
  EXPECT_EQ(store.PlaceOf(1, 0), Place::kSlot);
  { const ExpertLease read = store.Pin(1, std::vector<int32_t>{0}); }
  EXPECT_TRUE(store.Fetch(1, 2, kDemand));
  EXPECT_EQ(store.PlaceOf(1, 0), Place::kAway);
}

TEST_F(ExpertStoreTest, WhatARunKeepsWhileItIsReadStaysAsWell) {
  ExpertStore store = Make(2);
  source_.Hold(true);
  BeginRun(store, 1, std::vector{0});
  ASSERT_TRUE(store.Fetch(1, 0, kDemand));
  BeginRun(store, 1, std::vector{1, 2});  // the run before ended early
  ASSERT_EQ(store.PlaceOf(1, 0), Place::kReading);
  store.Keep(1, 0);
  source_.Hold(false);
  while (store.Pump(true)) continue;
  ASSERT_TRUE(store.Fetch(1, 1, kDemand));
  EXPECT_FALSE(store.Fetch(1, 2, kDemand));
  EXPECT_EQ(store.PlaceOf(1, 0), Place::kSlot);
}

TEST_F(ExpertStoreTest, DemandsAreReadBeforePrefetches) {
  ExpertStore store(layout_, {.experts = experts_, .num_slots = 4, .reader_threads = 1}, source_,
                    pool_);
  source_.Hold(true);
  ASSERT_TRUE(store.Fetch(1, 0, kPrefetch));  // the reader may have begun with it
  ASSERT_TRUE(store.Fetch(1, 1, kPrefetch));
  ASSERT_TRUE(store.Fetch(1, 2, kDemand));
  ASSERT_TRUE(store.Fetch(1, 3, kDemand));
  source_.Hold(false);
  while (store.Pump(true)) continue;
  std::vector<int> order = source_.Order();
  std::erase(order, 0);
  EXPECT_EQ(order, (std::vector{2, 3, 1}));
}

// A link that copies at once, says of what it was asked for, and lets the test say what arrived.
class FakeLink : public ExpertLink {
 public:
  struct Entry {
    std::byte* target;
    const std::byte* source;  // null: poison
    Mark readers;
    Label label;
  };
  Ticket Copy(std::byte* target, const std::byte* source, size_t bytes, Mark readers,
              const Label& label) override {
    std::memcpy(target, source, bytes);
    entries.push_back({target, source, readers, label});
    return entries.size();
  }
  Ticket Poison(std::byte* target, size_t bytes, Mark readers) override {
    std::memset(target, 0xff, bytes);
    entries.push_back({target, nullptr, readers, {}});
    return entries.size();
  }
  bool Arrived(Ticket ticket) override { return ticket <= arrived; }
  void Await(Ticket ticket) override { awaited = ticket; }
  void Wait(Ticket ticket) override { arrived = std::max(arrived, ticket); }
  Mark MarkReaders() override { return ++marks; }
  LinkUse Use() override { return {}; }

  std::vector<Entry> entries;
  Ticket awaited = 0;
  Ticket arrived = 0;
  Mark marks = 0;
};

TEST_F(ExpertStoreTest, CopiesWhatHostMemoryHasAtOnce) {
  auto link = std::make_unique<FakeLink>();
  FakeLink& fake = *link;
  MakeTiers(std::move(link));
  EXPECT_EQ(source_.reads, 12);
  ExpertStore store = Make(4);
  ASSERT_TRUE(store.Fetch(3, 2, kDemand));
  EXPECT_EQ(store.PlaceOf(3, 2), Place::kSlot);
  EXPECT_EQ(store.ReadySlot(3, 2), -1);
  const ExpertLease lease = store.Pin(3, std::vector{2});
  lease.Await();
  EXPECT_EQ(fake.awaited, 1u);
  EXPECT_TRUE(Holds(store, lease.slots()[0], ValueOf(3, 2)));
  fake.arrived = 1;
  EXPECT_TRUE(store.Ready(3, 2));
  EXPECT_EQ(store.ReadySlot(3, 2), lease.slots()[0]);
  EXPECT_EQ(source_.reads, 12);
  EXPECT_FALSE(store.Pump(true));
}

TEST_F(ExpertStoreTest, TellsTheLinkWhatItCopies) {
  auto link = std::make_unique<FakeLink>();
  FakeLink& fake = *link;
  MakeTiers(std::move(link));
  ExpertStore store = Make(4);
  ASSERT_TRUE(store.Fetch(3, 2, kDemand));
  ASSERT_TRUE(store.Fetch(1, 0, kPrefetch));
  ASSERT_EQ(fake.entries.size(), 2u);
  EXPECT_STREQ(fake.entries[0].label.name, "demand");
  EXPECT_EQ(fake.entries[0].label.facts.layer, 3);
  EXPECT_EQ(fake.entries[0].label.facts.expert, 2);
  EXPECT_STREQ(fake.entries[1].label.name, "prefetch");
  EXPECT_EQ(fake.entries[1].label.facts.layer, 1);
  EXPECT_EQ(fake.entries[1].label.facts.expert, 0);
}

TEST_F(ExpertStoreTest, OrdersCopiesBehindASlotsLastReaders) {
  auto link = std::make_unique<FakeLink>();
  FakeLink& fake = *link;
  MakeTiers(std::move(link));
  ExpertStore store = Make(1);
  RunLayer(store, 1, {0});  // the lease ends: mark 1
  {
    const ExpertLease again = RunLayer(store, 1, {0});
    const ExpertLease twice = store.Pin(1, std::vector{0});
  }
  EXPECT_EQ(fake.marks, 2u);  // one for the two leases that were there together
  RunLayer(store, 3, {5});
  ASSERT_EQ(fake.entries.size(), 3u);  // copy, poison, copy
  EXPECT_EQ(fake.entries[1].source, nullptr);
  EXPECT_EQ(fake.entries[1].readers, 2u);
  EXPECT_EQ(fake.entries[2].readers, 2u);
  EXPECT_EQ(fake.entries[2].target, fake.entries[0].target);
}

TEST_F(ExpertStoreTest, ReadsWhatHostMemoryLacksInPlaceOfTheFirstToLeave) {
  MakeTiers(MakeThreadLink(), /*host_slots=*/3);
  EXPECT_EQ(source_.reads, 3);
  ExpertStore store = Make(2);
  RunLayer(store, 1, {1});
  RunLayer(store, 1, {2});
  const ExpertLease lease = RunLayer(store, 3, {4});
  EXPECT_EQ(source_.reads, 4);
  EXPECT_TRUE(Holds(store, lease.slots()[0], ValueOf(3, 4)));
  EXPECT_EQ(host_->SlotOf(experts_.IndexOf(1, 0)), -1);  // never used
  EXPECT_GE(host_->SlotOf(experts_.IndexOf(3, 4)), 0);
  EXPECT_EQ(host_->bytes_read(), static_cast<uint64_t>(layout_.SlotBytes()));
}

TEST_F(ExpertStoreTest, ReadsOverNoHostSlotThatIsCopiedFromOrHeld) {
  auto link = std::make_unique<FakeLink>();
  FakeLink& fake = *link;
  MakeTiers(std::move(link), /*host_slots=*/2);
  ExpertStore store = Make(4);
  std::optional<HostLease> held(host_->Pin(std::vector{experts_.IndexOf(1, 1)}));
  ASSERT_TRUE(store.Fetch(1, 0, kDemand));   // its copy has not arrived
  EXPECT_FALSE(store.Fetch(3, 0, kDemand));  // nor is the other host slot free
  EXPECT_EQ(store.PlaceOf(3, 0), Place::kAway);
  EXPECT_TRUE(store.Pump(true));  // waits for the copy
  EXPECT_EQ(fake.arrived, 1u);
  EXPECT_TRUE(store.Fetch(3, 0, kDemand));
  EXPECT_EQ(host_->SlotOf(experts_.IndexOf(1, 0)), -1);
  EXPECT_FALSE(store.Fetch(3, 1, kDemand));  // one is being read to, one held
  held.reset();
  EXPECT_TRUE(store.Fetch(3, 1, kDemand));
  while (store.Pump(true)) continue;
  EXPECT_TRUE(Holds(store, store.Pin(3, std::vector{1}).slots()[0], ValueOf(3, 1)));
}

TEST_F(ExpertStoreTest, AFailedReadOfTheHostTierIsNamedToo) {
  MakeTiers(MakeThreadLink(), /*host_slots=*/2);
  ExpertStore store = Make(2);
  source_.Break(3, 0);
  EXPECT_TRUE(Holds(store, RunLayer(store, 1, {0}).slots()[0], ValueOf(1, 0)));
  try {
    RunLayer(store, 3, {0});
    FAIL() << "was read";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("expert 0 of layer 3 could not be read: the disk"));
  }
  EXPECT_TRUE(Holds(store, RunLayer(store, 3, {1}).slots()[0], ValueOf(3, 1)));
  source_.Mend();
  EXPECT_TRUE(Holds(store, RunLayer(store, 3, {0}).slots()[0], ValueOf(3, 0)));
}

TEST_F(ExpertStoreTest, AFileThatFailsWhileTheHostTierIsFilledIsSaid) {
  source_.BreakLayer(3);
  EXPECT_THROW(MakeHost(0), Error);
  MakeHost(4);  // of layer 1 alone
}

TEST_F(ExpertStoreTest, StoresShareAHostTierOneAfterAnother) {
  MakeTiers(MakeThreadLink({.bytes_per_s = 0, .latency_s = 2e-3}), /*host_slots=*/3);
  for (int round = 0; round < 3; ++round) {
    ExpertStore store = Make(4);  // ends with copies and reads under way
    ASSERT_TRUE(store.Fetch(1, 0, kDemand) || store.Pump(true));
    store.Fetch(3, 1 + round, kDemand);
    store.Fetch(3, 2 + round, kDemand);
  }
  ExpertStore store = Make(4);
  const std::vector<int32_t> some = {1, 2, 3};
  const ExpertLease lease = RunLayer(store, 3, some);
  for (size_t i = 0; i < some.size(); ++i) {
    EXPECT_TRUE(Holds(store, lease.slots()[i], ValueOf(3, some[i])));
  }
}

// Few slots of a device's memory, and a few of host memory: rounds of both layers, each in some
// waves, with what was computed (a copy out of the slot) read at the end of a round alone.
TEST_F(ExpertStoreTest, DeviceStoreFetchesBesideQueuedWork) {
  if (CudaDevices().empty()) GTEST_SKIP() << "no CUDA device";
  layout_ = {.hidden = 512, .ffn = 256, .dtype = DType::kF32};
  CudaStream stream;
  link_ = MakeCudaLink(stream);
  host_ = std::make_unique<HostExperts>(
      layout_, experts_, HostExperts::Options{.num_slots = 9, .memory = MemoryKind::kPinned},
      source_, pool_);
  ExpertStore store(layout_,
                    {.experts = experts_,
                     .num_slots = 4,
                     .poison_freed = true,
                     .memory = MemoryKind::kCuda,
                     .stream = &stream,
                     .link = link_.get(),
                     .host = host_.get(),
                     .eviction = EvictionPolicy::kExpected},
                    source_, pool_);
  const auto bytes = static_cast<size_t>(layout_.SlotBytes());
  const Buffer results(12 * bytes, MemoryKind::kCuda);
  std::vector<std::byte> got(results.size());
  for (int round = 0; round < 20; ++round) {
    stream.Fill(results.data(), 0, results.size());
    for (const int layer : kLayers) {
      const std::vector<int32_t> all = {0, 1, 2, 3, 4, 5};
      BeginRun(store, layer, all);
      testing::RunInWaves(store, layer, all, [&](auto wave, const ExpertLease& lease) {
        for (size_t i = 0; i < wave.size(); ++i) {
          stream.Copy(results.data() + experts_.IndexOf(layer, wave[i]) * bytes,
                      store.slab() + lease.slots()[i] * bytes, bytes);
        }
      });
    }
    stream.Copy(got.data(), results.data(), results.size());
    stream.Synchronize();
    for (int32_t index = 0; index < 12; ++index) {
      const auto* values = reinterpret_cast<const float*>(got.data() + index * bytes);
      const float want = ValueOf(experts_.LayerOf(index), index % kExperts);
      ASSERT_EQ(std::count(values, values + bytes / sizeof(float), want),
                static_cast<int64_t>(bytes / sizeof(float)))
          << index;
    }
  }
}

}  // namespace
}  // namespace sluice
