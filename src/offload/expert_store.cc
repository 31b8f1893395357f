#include "offload/expert_store.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/check.h"

namespace sluice {

ExpertLease::ExpertLease(ExpertStore* store, std::vector<int32_t> slots)
    : store_(store), slots_(std::move(slots)) {
  generations_.reserve(slots_.size());
  for (int32_t slot : slots_) {
    ++store_->slots_[slot].pins;
    generations_.push_back(store_->slots_[slot].generation);
  }
}

ExpertLease::ExpertLease(ExpertLease&& other) noexcept
    : store_(std::exchange(other.store_, nullptr)),
      slots_(std::move(other.slots_)),
      generations_(std::move(other.generations_)) {}

ExpertLease::~ExpertLease() {
  if (store_ == nullptr) return;
  for (int32_t slot : slots_) --store_->slots_[slot].pins;
}

void ExpertLease::CheckUnchanged() const {
  for (size_t i = 0; i < slots_.size(); ++i) {
    SLUICE_CHECK_EQ(store_->slots_[slots_[i]].generation, generations_[i]);
  }
}

ExpertStore::ExpertStore(const ExpertLayout& layout, const Options& options,
                         const ExpertSource& source, ThreadPool& pool)
    : layout_(layout), options_(options), source_(source), pool_(pool) {
  SLUICE_CHECK_GE(options_.num_experts, 1);
  SLUICE_CHECK(!options_.layers.empty());
  layer_ordinal_.assign(options_.layers.back() + 1, -1);
  for (size_t i = 0; i < options_.layers.size(); ++i) {
    layer_ordinal_[options_.layers[i]] = static_cast<int32_t>(i);
  }
  const int all = NumExpertsInAll();
  const int num_slots = options_.num_slots == 0 ? all : std::min(options_.num_slots, all);
  SLUICE_CHECK_GE(num_slots, 1);
  slab_ = Buffer(static_cast<size_t>(num_slots) * layout_.SlotBytes());
  slots_.resize(num_slots);
  table_.assign(all, -1);
  if (num_slots < all) return;

  pool_.ParallelFor(all, 1, [this](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) Load(static_cast<int32_t>(i), static_cast<int32_t>(i));
  });
}

int32_t ExpertStore::TableIndex(int layer, int32_t expert) const {
  SLUICE_CHECK_LT(layer, static_cast<int>(layer_ordinal_.size()));
  SLUICE_CHECK_GE(layer_ordinal_[layer], 0);
  SLUICE_CHECK_GE(expert, 0);
  SLUICE_CHECK_LT(expert, options_.num_experts);
  return layer_ordinal_[layer] * options_.num_experts + expert;
}

ExpertLease ExpertStore::Acquire(int layer, std::span<const int32_t> experts) {
  SLUICE_CHECK_LE(static_cast<int>(experts.size()), num_slots());
  requests_ += experts.size();
  ++clock_;
  // Those already here first, so that making room for the others cannot evict them.
  std::vector<int32_t> missing;
  for (int32_t expert : experts) {
    const int32_t index = TableIndex(layer, expert);
    if (table_[index] < 0) {
      missing.push_back(index);
    } else {
      slots_[table_[index]].last_used = clock_;
    }
  }
  if (!missing.empty()) {
    misses_ += missing.size();
    std::vector<int32_t> targets;
    try {
      for (int32_t index : missing) {
        const int32_t slot = TakeSlot();
        slots_[slot].owner = index;  // claimed: TakeSlot will not hand it out again this time
        slots_[slot].last_used = clock_;
        targets.push_back(slot);
      }
      pool_.ParallelFor(static_cast<int64_t>(missing.size()), 1,
                        [&](int64_t begin, int64_t end, int) {
                          for (int64_t i = begin; i < end; ++i) Load(missing[i], targets[i]);
                        });
    } catch (...) {
      // What was read stays; the slots of what was not are free again.
      for (size_t i = 0; i < targets.size(); ++i) {
        if (table_[missing[i]] != targets[i]) slots_[targets[i]].owner = -1;
      }
      throw;
    }
  }
  std::vector<int32_t> slots;
  slots.reserve(experts.size());
  for (int32_t expert : experts) slots.push_back(table_[TableIndex(layer, expert)]);
  return ExpertLease(this, std::move(slots));
}

int32_t ExpertStore::TakeSlot() {
  int32_t best = -1;
  for (int32_t i = 0; i < num_slots(); ++i) {
    const Slot& slot = slots_[i];
    if (slot.pins > 0 || (slot.owner >= 0 && slot.last_used == clock_)) continue;
    if (slot.owner < 0) return i;
    if (best < 0 || slot.last_used < slots_[best].last_used) best = i;
  }
  SLUICE_CHECK_GE(best, 0);
  Slot& slot = slots_[best];
  table_[slot.owner] = -1;
  slot.owner = -1;
  ++slot.generation;
  if (options_.poison_freed) {
    // All ones is NaN in every float format a slot may hold.
    std::memset(slab_.data() + best * layout_.SlotBytes(), 0xff, layout_.SlotBytes());
  }
  return best;
}

void ExpertStore::Load(int32_t table_index, int32_t slot) {
  const int layer = options_.layers[table_index / options_.num_experts];
  const int expert = options_.first_expert + table_index % options_.num_experts;
  source_.Read(layer, expert, View(slot));
  slots_[slot].owner = table_index;
  table_[table_index] = slot;
}

ExpertSlotView ExpertStore::View(int32_t slot) const {
  std::byte* base = slab_.data() + slot * layout_.SlotBytes();
  const int64_t gate_bytes = layout_.GateUpBytes() / 2;
  return {.gate = TensorView(base, layout_.dtype, {layout_.ffn, layout_.hidden}),
          .up = TensorView(base + gate_bytes, layout_.dtype, {layout_.ffn, layout_.hidden}),
          .down = TensorView(base + layout_.DownOffset(), layout_.dtype,
                             {layout_.hidden, layout_.ffn})};
}

}  // namespace sluice
