#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "offload/expert_store.h"

namespace sluice::testing {

// The value that every element of an expert of a FakeSource has.
inline float ValueOf(int layer, int expert) {
  return static_cast<float>(layer * 100 + expert);
}

// Fills every matrix of an expert with its value, and counts reads. Some can be made to fail, or
// all to wait.
class FakeSource : public ExpertSource {
 public:
  void Read(int layer, int expert, const ExpertSlotView& target) const override {
    {
      std::unique_lock lock(mutex_);
      opened_.wait(lock, [this] { return !held_; });
      order_.push_back(expert);
      if (broken_.contains({layer, expert}) || layer == broken_layer_) {
        throw Error(ErrorCode::kDataLoss, "the disk is gone");
      }
    }
    ++reads;
    for (const TensorView& matrix : {target.gate, target.up, target.down}) {
      std::fill_n(matrix.data<float>(), matrix.NumElements(), ValueOf(layer, expert));
    }
  }

  void Break(int layer, int expert) {
    Change([&] { broken_.insert({layer, expert}); });
  }
  void BreakLayer(int layer) {
    Change([&] { broken_layer_ = layer; });
  }
  void Mend() {
    Change([&] {
      broken_.clear();
      broken_layer_ = -1;
    });
  }
  void Hold(bool held) {
    Change([&] { held_ = held; });
  }

  // The experts in the order in which reads of them went on.
  std::vector<int> Order() const {
    const std::lock_guard lock(mutex_);
    return order_;
  }

  mutable std::atomic<int> reads{0};

 private:
  template <class F>
  void Change(const F& change) {
    {
      const std::lock_guard lock(mutex_);
      change();
    }
    opened_.notify_all();
  }

  mutable std::mutex mutex_;
  mutable std::condition_variable opened_;
  mutable std::vector<int> order_;
  std::set<std::pair<int, int>> broken_;
  int broken_layer_ = -1;
  bool held_ = false;
};

// Begins a layer's run that needs these experts, one token each.
inline void BeginRun(ExpertStore& store, int layer, std::span<const int32_t> experts) {
  std::vector<int32_t> tokens(store.num_experts());
  for (const int32_t expert : experts) tokens[expert] = 1;
  store.BeginLayer(layer);
  store.NoteUse(layer, tokens);
}

// Calls compute(experts, lease) for the experts of a run that has begun, in as many waves as the
// slots make of them: first what is there. Throws Error where one cannot be read, and InternalError
// where there is no slot.
template <class Compute>
void RunInWaves(ExpertStore& store, int layer, std::vector<int32_t> experts,
                const Compute& compute) {
  using Place = ExpertStore::Place;
  while (!experts.empty()) {
    std::vector<int32_t> wave;
    std::vector<int32_t> others;
    for (const int32_t expert : experts) {
      if (store.PlaceOf(layer, expert) == Place::kFailed) {
        throw Error(ErrorCode::kDataLoss, store.TakeFailure(layer, expert));
      }
      if (store.PlaceOf(layer, expert) == Place::kAway) {
        store.Fetch(layer, expert, FetchReason::kDemand);
      }
      (store.PlaceOf(layer, expert) == Place::kSlot ? wave : others).push_back(expert);
    }
    if (!wave.empty()) {
      const ExpertLease lease = store.Pin(layer, wave);
      lease.Await();
      compute(std::span<const int32_t>(wave), lease);
      lease.CheckUnchanged();
    } else {
      SLUICE_CHECK(store.Pump(true));
    }
    experts = others;
  }
}

// Fetches what is in no slot, and returns once all are there. Throws as RunInWaves.
inline ExpertLease BringAll(ExpertStore& store, int layer, std::span<const int32_t> experts) {
  using Place = ExpertStore::Place;
  for (const int32_t expert : experts) {
    if (store.PlaceOf(layer, expert) != Place::kAway) continue;
    while (!store.Fetch(layer, expert, FetchReason::kDemand)) SLUICE_CHECK(store.Pump(true));
  }
  for (const int32_t expert : experts) {
    while (store.PlaceOf(layer, expert) == Place::kReading) store.Pump(true);
    if (store.PlaceOf(layer, expert) == Place::kFailed) {
      throw Error(ErrorCode::kDataLoss, store.TakeFailure(layer, expert));
    }
  }
  ExpertLease lease = store.Pin(layer, experts);
  lease.Await();
  return lease;
}

// A layer's whole run.
inline ExpertLease RunLayer(ExpertStore& store, int layer, std::vector<int32_t> experts) {
  BeginRun(store, layer, experts);
  return BringAll(store, layer, experts);
}

// Whether each element in a slot of host memory has this value.
inline bool Holds(const ExpertStore& store, int32_t slot, float value) {
  const ExpertLayout& layout = store.layout();
  const std::byte* data = store.slab() + slot * layout.SlotBytes();
  const auto all = [&](const std::byte* begin, int64_t count) {
    const auto* values = reinterpret_cast<const float*>(begin);
    return std::all_of(values, values + count, [&](float v) { return v == value; });
  };
  return all(data, 2 * layout.ffn * layout.hidden) &&
         all(data + layout.DownOffset(), layout.ffn * layout.hidden);
}

}  // namespace sluice::testing
