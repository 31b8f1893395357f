#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "device/buffer.h"
#include "offload/eviction.h"
#include "offload/expert_layout.h"
#include "offload/expert_link.h"
#include "offload/expert_readers.h"

namespace sluice {

class HostExperts;

// A hold on experts in host memory while something reads them there. Move-only; must not outlive
// its HostExperts.
class HostLease {
 public:
  HostLease(HostLease&& other) noexcept;
  HostLease& operator=(HostLease&&) = delete;
  ~HostLease();
  // The host slot of each expert asked for, in the order asked. [n]
  std::span<const int32_t> slots() const { return slots_; }

 private:
  friend class HostExperts;
  HostLease(HostExperts* host, std::vector<int32_t> slots);

  HostExperts* host_;
  std::vector<int32_t> slots_;
};

// The host tier: experts in uniform slots of one address range of host memory. With a slot for
// every expert it reads all of them when it is made and changes no more. With fewer it reads as
// many as there are slots, and others later, when asked, in the place of those that leave.
//
// Serves one ExpertStore at a time, on the store's thread.
class HostExperts {
 public:
  struct Options {
    int num_slots = 0;                      // 0 = one for every expert
    MemoryKind memory = MemoryKind::kHost;  // kPinned where a CUDA device copies from it
    int reader_threads = 4;
  };

  // Reads experts on the pool; throws what the source throws. `source` outlives it unless it holds
  // every expert.
  HostExperts(const ExpertLayout& layout, const ExpertSet& experts, const Options& options,
              const ExpertSource& source, ThreadPool& pool);
  HostExperts(const HostExperts&) = delete;
  HostExperts& operator=(const HostExperts&) = delete;

  const ExpertLayout& layout() const { return layout_; }
  const ExpertSet& experts() const { return experts_; }
  const std::byte* slab() const { return slab_.data(); }
  int num_slots() const { return static_cast<int>(slots_.size()); }
  bool HoldsAll() const { return num_slots() == experts_.size(); }
  uint64_t NumBytes() const { return slab_.size(); }
  // Bytes read from the source since it was made, beyond what it was filled with.
  uint64_t bytes_read() const { return readers_ ? readers_->bytes_read() : 0; }

  // The slot of an expert whose bytes are here, or -1.
  int32_t SlotOf(int32_t index) const { return table_[index]; }
  const std::byte* SlotData(int32_t slot) const {
    return slab_.data() + slot * layout_.SlotBytes();
  }

  // Holds experts that are here: they stay until the lease ends.
  HostLease Pin(std::span<const int32_t> indices);

 private:
  friend class HostLease;
  friend class ExpertStore;

  struct Slot {
    int32_t owner = -1;  // index of the expert, also while it is being read
    int32_t pins = 0;
    bool reading = false;
    ExpertLink::Ticket copy = 0;  // the last one out of it
  };

  // For the store. Begins to read an expert that is not here, in the place of the one that leaves
  // first of those that nothing reads. False where there is none.
  bool Begin(int32_t index, FetchReason reason, ExpertLink& link, const EvictionOrder& order);
  // Appends the reads that have ended; with `wait`, waits for one if any is under way.
  void Collect(bool wait, std::vector<ExpertRead>& ended);
  int ReadsUnderWay() const { return readers_ ? readers_->UnderWay() : 0; }
  // A copy out of the expert's slot was queued.
  void NoteCopy(int32_t index, ExpertLink::Ticket ticket) { slots_[table_[index]].copy = ticket; }
  // All copies have arrived, and the next are another link's.
  void ForgetCopies();

  int32_t TakeSlot(ExpertLink& link, const EvictionOrder& order);
  std::byte* MutableData(int32_t slot) { return slab_.data() + slot * layout_.SlotBytes(); }

  ExpertLayout layout_;
  ExpertSet experts_;
  Buffer slab_;
  std::vector<Slot> slots_;
  std::vector<int32_t> table_;            // [experts] -> slot whose bytes are there, or -1
  std::vector<int32_t> reading_;          // [experts] -> slot that it is being read to, or -1
  std::optional<ExpertReaders> readers_;  // ends before what it reads to; none when all are here
};

}  // namespace sluice
