#include "offload/expert_store.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <stdexcept>
#include <vector>

namespace sluice {
namespace {

constexpr int kExperts = 6;
const std::vector<int> kLayers = {1, 3};

// Fills every matrix of an expert with layer * 100 + expert, and counts reads.
class FakeSource : public ExpertSource {
 public:
  void Read(int layer, int expert, const ExpertSlotView& target) const override {
    if (layer == fail_layer) throw Error(ErrorCode::kDataLoss, "cannot read");
    ++reads;
    for (const TensorView& matrix : {target.gate, target.up, target.down}) {
      std::fill_n(matrix.data<float>(), matrix.NumElements(),
                  static_cast<float>(layer * 100 + expert));
    }
  }
  mutable std::atomic<int> reads{0};
  int fail_layer = -1;
};

class ExpertStoreTest : public ::testing::Test {
 protected:
  ExpertStore Make(int num_slots) {
    return ExpertStore(
        layout_,
        {.experts = ExpertSet(kLayers, kExperts), .num_slots = num_slots, .poison_freed = true},
        source_, pool_);
  }

  float FirstValue(const ExpertStore& store, int32_t slot) const {
    return *reinterpret_cast<const float*>(store.slab() + slot * layout_.SlotBytes());
  }

  ExpertLayout layout_{.hidden = 4, .ffn = 3, .dtype = DType::kF32};
  FakeSource source_;
  ThreadPool pool_{2};
};

TEST_F(ExpertStoreTest, ResidentStoreReadsEachExpertOnce) {
  ExpertStore store = Make(0);
  EXPECT_TRUE(store.AllResident());
  EXPECT_EQ(source_.reads, 12);
  const std::vector<int32_t> experts = {5, 0, 2};
  const ExpertLease lease = store.Acquire(3, experts);
  for (size_t i = 0; i < experts.size(); ++i) {
    EXPECT_EQ(FirstValue(store, lease.slots()[i]), 300.0f + experts[i]);
  }
  EXPECT_EQ(store.misses(), 0u);
}

TEST_F(ExpertStoreTest, ResidentStoreHasATableOfSlots) {
  ExpertStore store = Make(0);
  for (const int layer : kLayers) {
    const ConstTensorView table = store.SlotTable(layer);
    ASSERT_EQ(table.shape(), Shape({kExperts}));
    for (int e = 0; e < kExperts; ++e) {
      EXPECT_EQ(FirstValue(store, table.data<int32_t>()[e]), layer * 100.0f + e);
    }
  }
  EXPECT_THROW(Make(11).SlotTable(1), InternalError);
}

TEST_F(ExpertStoreTest, DeviceStoreHoldsWhatWasRead) {
  if (CudaDevices().empty()) GTEST_SKIP() << "no CUDA device";
  CudaStream stream;
  ExpertStore::Options options{
      .experts = ExpertSet(kLayers, kExperts), .memory = MemoryKind::kCuda, .stream = &stream};
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
      EXPECT_EQ(slot[23], layer * 100.0f + static_cast<float>(e));
      EXPECT_EQ(down[11], layer * 100.0f + static_cast<float>(e));
    }
  }
  source_.fail_layer = 3;
  EXPECT_THROW(ExpertStore(layout_, options, source_, pool_), Error);
  options.num_slots = 11;
  EXPECT_THROW(ExpertStore(layout_, options, source_, pool_), Error);
}

TEST_F(ExpertStoreTest, EvictsTheLeastRecentlyUsedAndPoisonsIt) {
  ExpertStore store = Make(2);
  const std::vector<int32_t> zero = {0}, one = {1}, two = {2};
  const int32_t slot_of_zero = store.Acquire(1, zero).slots()[0];
  store.Acquire(1, one);
  store.Acquire(1, zero);
  EXPECT_EQ(store.misses(), 2u);
  const ExpertLease lease = store.Acquire(3, two);  // expert 1 of layer 1 was used longest ago
  EXPECT_NE(lease.slots()[0], slot_of_zero);
  EXPECT_EQ(FirstValue(store, lease.slots()[0]), 302.0f);
  EXPECT_EQ(store.Acquire(1, zero).slots()[0], slot_of_zero);
  EXPECT_EQ(store.misses(), 3u);
}

TEST_F(ExpertStoreTest, NeverEvictsWhatALeaseHolds) {
  ExpertStore store = Make(3);
  const std::vector<int32_t> pair = {0, 1}, other = {2, 3};
  const ExpertLease held = store.Acquire(1, pair);
  EXPECT_THROW(store.Acquire(3, other), InternalError);  // one slot is free, two are asked for
  held.CheckUnchanged();
  EXPECT_EQ(FirstValue(store, held.slots()[0]), 100.0f);
}

TEST_F(ExpertStoreTest, AskingForHeldAndMissingTogetherKeepsTheHeld) {
  ExpertStore store = Make(2);
  const std::vector<int32_t> zero = {0}, both = {1, 0};
  store.Acquire(1, zero);
  const std::vector<int32_t> three = {3};
  store.Acquire(1, three);
  const ExpertLease lease = store.Acquire(1, both);
  EXPECT_EQ(FirstValue(store, lease.slots()[0]), 101.0f);
  EXPECT_EQ(FirstValue(store, lease.slots()[1]), 100.0f);
}

TEST_F(ExpertStoreTest, AFailedReadLeavesTheStoreUsable) {
  ExpertStore store = Make(2);
  source_.fail_layer = 3;
  const std::vector<int32_t> pair = {0, 1};
  EXPECT_THROW(store.Acquire(3, pair), Error);
  source_.fail_layer = -1;
  const ExpertLease lease = store.Acquire(3, pair);
  EXPECT_EQ(FirstValue(store, lease.slots()[0]), 300.0f);
  EXPECT_EQ(FirstValue(store, lease.slots()[1]), 301.0f);
}

TEST_F(ExpertStoreTest, FreedSlotsHoldPoison) {
  ExpertStore store = Make(1);
  const std::vector<int32_t> zero = {0};
  const int32_t slot = store.Acquire(1, zero).slots()[0];
  EXPECT_EQ(FirstValue(store, slot), 100.0f);
  source_.fail_layer = 3;
  EXPECT_THROW(store.Acquire(3, zero), Error);  // evicts, then cannot fill
  EXPECT_TRUE(std::isnan(FirstValue(store, slot)));
}

}  // namespace
}  // namespace sluice
