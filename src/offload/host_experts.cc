#include "offload/host_experts.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace sluice {

HostLease::HostLease(HostExperts* host, std::vector<int32_t> slots)
    : host_(host), slots_(std::move(slots)) {
  for (const int32_t slot : slots_) ++host_->slots_[slot].pins;
}

HostLease::HostLease(HostLease&& other) noexcept
    : host_(std::exchange(other.host_, nullptr)), slots_(std::move(other.slots_)) {}

HostLease::~HostLease() {
  if (host_ == nullptr) return;
  for (const int32_t slot : slots_) --host_->slots_[slot].pins;
}

HostExperts::HostExperts(const ExpertLayout& layout, const ExpertSet& experts,
                         const Options& options, const ExpertSource& source, ThreadPool& pool)
    : layout_(layout), experts_(experts) {
  const int all = experts_.size();
  const int num_slots = options.num_slots == 0 ? all : std::min(options.num_slots, all);
  SLUICE_CHECK_GE(num_slots, 1);
  SLUICE_CHECK(options.memory != MemoryKind::kCuda);
  slab_ = Buffer(static_cast<size_t>(num_slots) * layout_.SlotBytes(), options.memory);
  slots_.resize(num_slots);
  table_.assign(all, -1);
  reading_.assign(all, -1);
  pool.ParallelFor(num_slots, 1, [&](int64_t begin, int64_t end, int) {
    for (auto i = static_cast<int32_t>(begin); i < end; ++i) {
      source.Read(experts_.LayerOf(i), experts_.SourceExpertOf(i),
                  SlotViewOf(layout_, MutableData(i)));
      slots_[i].owner = i;
      table_[i] = i;
    }
  });
  if (num_slots < all) readers_.emplace(layout_, experts_, source, options.reader_threads);
}

HostLease HostExperts::Pin(std::span<const int32_t> indices) {
  std::vector<int32_t> slots;
  slots.reserve(indices.size());
  for (const int32_t index : indices) {
    SLUICE_CHECK_GE(table_[index], 0);
    slots.push_back(table_[index]);
  }
  return HostLease(this, std::move(slots));
}

// Looks at every slot: that is microseconds, and a read takes milliseconds.
int32_t HostExperts::TakeSlot(ExpertLink& link, const EvictionOrder& order) {
  int32_t first = -1;
  for (int32_t i = 0; i < num_slots(); ++i) {
    const Slot& slot = slots_[i];
    if (slot.owner < 0) return i;
    if (slot.pins > 0 || slot.reading) continue;
    if (first >= 0 && !order.LeavesBefore(slot.owner, slots_[first].owner)) continue;
    if (!link.Arrived(slot.copy)) continue;
    first = i;
  }
  return first;
}

bool HostExperts::Begin(int32_t index, FetchReason reason, ExpertLink& link,
                        const EvictionOrder& order) {
  SLUICE_CHECK_EQ(table_[index], -1);
  if (reading_[index] >= 0) return true;
  const int32_t taken = TakeSlot(link, order);
  if (taken < 0) return false;
  Slot& slot = slots_[taken];
  if (slot.owner >= 0) table_[slot.owner] = -1;
  slot = {.owner = index, .reading = true};
  reading_[index] = taken;
  readers_->Begin(index, MutableData(taken), reason);
  return true;
}

void HostExperts::Collect(bool wait, std::vector<ExpertRead>& ended) {
  if (!readers_) return;
  const size_t before = ended.size();
  readers_->Collect(wait, ended);
  for (size_t i = before; i < ended.size(); ++i) {
    const int32_t index = ended[i].index;
    const int32_t at = std::exchange(reading_[index], -1);
    slots_[at].reading = false;
    if (ended[i].error.empty()) {
      table_[index] = at;
    } else {
      slots_[at].owner = -1;
    }
  }
}

void HostExperts::ForgetCopies() {
  for (Slot& slot : slots_) slot.copy = 0;
}

}  // namespace sluice
