// Random operations on an ExpertStore against a model of what it promises.
#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <list>
#include <map>
#include <memory>
#include <ostream>
#include <random>
#include <set>
#include <vector>

#include "offload/expert_store.h"
#include "offload/testing.h"

namespace sluice {
namespace {

using testing::Holds;
using testing::ValueOf;
using Place = ExpertStore::Place;

constexpr int kExperts = 5;
const std::vector<int> kLayers = {0, 2, 3};

struct Form {
  const char* name;
  EvictionPolicy policy;
  int num_slots;
  bool has_link;
  int host_slots;  // 0 = all
};

void PrintTo(const Form& form, std::ostream* out) {
  *out << form.name;
}

class StoreModelTest : public ::testing::TestWithParam<Form> {
 protected:
  StoreModelTest() {
    if (GetParam().has_link) {
      link_ = MakeThreadLink({.bytes_per_s = 0, .latency_s = 2e-5});
      host_ = std::make_unique<HostExperts>(
          layout_, experts_, HostExperts::Options{.num_slots = GetParam().host_slots}, source_,
          pool_);
    }
    store_ = std::make_unique<ExpertStore>(layout_,
                                           ExpertStore::Options{.experts = experts_,
                                                                .num_slots = GetParam().num_slots,
                                                                .poison_freed = true,
                                                                .link = link_.get(),
                                                                .host = host_.get(),
                                                                .eviction = GetParam().policy},
                                           source_, pool_);
  }

  // What the test knows of a lease: its experts stay where they are.
  struct Held {
    int layer;
    std::vector<int32_t> experts;
    ExpertLease lease;
  };

  int Random(int64_t below) { return static_cast<int>(random_() % below); }
  int RandomLayer() { return kLayers[Random(3)]; }

  void Begin() {
    layer_ = RandomLayer();
    std::vector<int32_t> tokens(kExperts);
    for (int32_t& count : tokens) count = Random(3) == 0 ? 1 : 0;
    needed_.clear();
    store_->BeginLayer(layer_);
    store_->NoteUse(layer_, tokens);
    for (int32_t e = 0; e < kExperts; ++e) {
      const Place place = store_->PlaceOf(layer_, e);
      if (tokens[e] > 0 && (place == Place::kSlot || place == Place::kReading)) needed_.insert(e);
    }
  }

  // Slots that a demand may not take: pinned, read to, or needed by this run and not pinned yet.
  int KeptSlots() const {
    int kept = 0;
    for (const int layer : kLayers) {
      for (int32_t e = 0; e < kExperts; ++e) {
        const Place place = store_->PlaceOf(layer, e);
        const bool pinned = IsPinned(layer, e);
        const bool needed = layer == layer_ && needed_.contains(e);
        if (place == Place::kReading || (place == Place::kSlot && (pinned || needed))) ++kept;
      }
    }
    return kept;
  }

  bool IsPinned(int layer, int32_t expert) const {
    for (const Held& held : held_) {
      if (held.layer == layer && std::count(held.experts.begin(), held.experts.end(), expert) > 0) {
        return true;
      }
    }
    return false;
  }

  void Fetch(FetchReason reason) {
    const int layer = reason == FetchReason::kDemand ? layer_ : RandomLayer();
    const int32_t expert = Random(kExperts);
    if (store_->PlaceOf(layer, expert) == Place::kFailed) {
      EXPECT_NE(store_->TakeFailure(layer, expert), "");
    }
    if (store_->PlaceOf(layer, expert) != Place::kAway) return;
    const bool can = KeptSlots() < store_->num_slots();
    const bool is_near = host_ == nullptr || host_->HoldsAll();
    const bool fetched = store_->Fetch(layer, expert, reason);
    if (!can) {
      EXPECT_FALSE(fetched);
    } else if (reason == FetchReason::kDemand && is_near) {
      EXPECT_TRUE(fetched);
    }
    if (fetched && reason == FetchReason::kDemand) needed_.insert(expert);
    EXPECT_EQ(fetched, store_->PlaceOf(layer, expert) != Place::kAway);
  }

  void Pin() {
    std::vector<int32_t> experts;
    for (int32_t e = 0; e < kExperts; ++e) {
      if (store_->PlaceOf(layer_, e) == Place::kSlot && Random(2) == 0) experts.push_back(e);
    }
    for (const int32_t e : experts) needed_.erase(e);
    held_.push_back({layer_, experts, store_->Pin(layer_, experts)});
    held_.back().lease.Await();
  }

  void Release() {
    if (!held_.empty()) held_.erase(std::next(held_.begin(), Random(std::ssize(held_))));
  }

  void Expect() {
    std::vector<double> tokens(kExperts);
    for (double& count : tokens) count = Random(4);
    store_->Expect(RandomLayer(), tokens);
  }

  // What leases hold has the right bytes, no slot is anybody's twice, no more are in than can be.
  void CheckAll() {
    std::map<int32_t, float> owners;
    for (const Held& held : held_) {
      held.lease.CheckUnchanged();
      for (size_t i = 0; i < held.experts.size(); ++i) {
        ASSERT_EQ(store_->PlaceOf(held.layer, held.experts[i]), Place::kSlot);
        const float value = ValueOf(held.layer, held.experts[i]);
        ASSERT_EQ(owners.emplace(held.lease.slots()[i], value).first->second, value);
        ASSERT_TRUE(Holds(*store_, held.lease.slots()[i], value));
      }
    }
    int in = 0;
    for (const int layer : kLayers) {
      for (int32_t e = 0; e < kExperts; ++e) {
        const Place place = store_->PlaceOf(layer, e);
        if (place == Place::kSlot || place == Place::kReading) ++in;
      }
    }
    ASSERT_LE(in, store_->num_slots());
  }

  ExpertLayout layout_{.hidden = 8, .ffn = 5, .dtype = DType::kF32};
  ExpertSet experts_{kLayers, kExperts};
  testing::FakeSource source_;
  ThreadPool pool_{1};
  std::unique_ptr<ExpertLink> link_;
  std::unique_ptr<HostExperts> host_;
  std::unique_ptr<ExpertStore> store_;
  std::mt19937 random_{20261122};
  int layer_ = kLayers[0];
  std::set<int32_t> needed_;  // of the running layer, in a slot and not pinned yet
  std::list<Held> held_;
};

TEST_P(StoreModelTest, KeepsItsPromisesUnderRandomOperations) {
  Begin();
  for (int step = 0; step < 6000; ++step) {
    switch (Random(12)) {
      case 0:
        Begin();
        break;
      case 1:
      case 2:
      case 3:
        Fetch(FetchReason::kDemand);
        break;
      case 4:
        Fetch(FetchReason::kPrefetch);
        break;
      case 5:
        Pin();
        break;
      case 6:
      case 7:
        Release();
        break;
      case 8:
        store_->Pump(Random(2) == 0);
        break;
      case 9:
        Expect();
        break;
      case 10:
        if (Random(20) == 0) source_.Break(RandomLayer(), Random(kExperts));
        break;
      default:
        if (Random(10) == 0) source_.Mend();
        break;
    }
    if (held_.size() > 3) Release();
    CheckAll();
    if (HasFatalFailure() || HasNonfatalFailure()) FAIL() << "at step " << step;
  }
  held_.clear();
}

INSTANTIATE_TEST_SUITE_P(
    Tiers, StoreModelTest,
    ::testing::Values(Form{"FromFilesLru", EvictionPolicy::kLru, 4, false, 0},
                      Form{"FromFilesExpected", EvictionPolicy::kExpected, 7, false, 0},
                      Form{"FromHostLfu", EvictionPolicy::kLfu, 4, true, 0},
                      Form{"FromHostExpected", EvictionPolicy::kExpected, 2, true, 0},
                      Form{"FromBothLru", EvictionPolicy::kLru, 3, true, 5},
                      Form{"FromBothExpected", EvictionPolicy::kExpected, 6, true, 4}),
    [](const auto& form) { return form.param.name; });

}  // namespace
}  // namespace sluice
