#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/thread_pool.h"
#include "device/buffer.h"
#include "device/cuda_stream.h"
#include "device/tensor.h"
#include "offload/eviction.h"
#include "offload/expert_layout.h"
#include "offload/expert_link.h"
#include "offload/expert_readers.h"
#include "offload/host_experts.h"

namespace sluice {

class ExpertStore;

// A hold on the experts of one layer that a step is about to read: they stay in their slots until
// the lease ends. What was queued to be computed until then counts as their readers. Move-only;
// must not outlive its store.
class ExpertLease {
 public:
  ExpertLease(ExpertLease&& other) noexcept;
  ExpertLease& operator=(ExpertLease&&) = delete;
  ~ExpertLease();

  // The slot of each expert asked for, in the order asked. [n]
  std::span<const int32_t> slots() const { return slots_; }

  // What is computed from now on finds all of them (ExpertLink::Await).
  void Await() const;

  // Throws InternalError if a slot was given to another expert since the lease began: a reader
  // would have seen wrong weights.
  void CheckUnchanged() const;

 private:
  friend class ExpertStore;
  ExpertLease(ExpertStore* store, std::vector<int32_t> slots);

  ExpertStore* store_;
  std::vector<int32_t> slots_;
  std::vector<uint64_t> generations_;
};

// Keeps experts in uniform slots of one slab. Kernels get the slab and, through leases, slot
// numbers; what is evicted, replicated or moved changes numbers, never an address.
//
// With a slot for every expert the store fills itself once and is a plain table. With fewer it is
// the upper one of three tiers: Fetch brings an expert from host memory over the link, or from the
// source by way of host memory, in the place of one that leaves. Without a link its slots are host
// memory, and what is missing is read from the source straight into them.
//
// Of a layer's run the caller tells BeginLayer and NoteUse, fetches what is not in a slot, and
// computes with what has come in as many leases as the slots allow: what the run needs keeps its
// slot until it was pinned once.
//
// Used by one thread, and nothing but Pump(true) waits in it: a slot is written over once what was
// computed with it is done, which the link sees to.
class ExpertStore {
 public:
  struct Options {
    ExpertSet experts;
    int num_slots = 0;          // 0 = a slot for every expert
    bool poison_freed = false;  // overwrite evicted slots with NaN, so that a stale read shows
    // Of the slab and the slot table. With kCuda `stream` carries the copies where every expert has
    // a slot: it is used while the store is made, and that ends when they have arrived.
    MemoryKind memory = MemoryKind::kHost;
    CudaStream* stream = nullptr;
    // With fewer slots than experts: the way into them and what it begins at, both or neither, and
    // both outlive the store. In a device's memory there have to be.
    ExpertLink* link = nullptr;
    HostExperts* host = nullptr;
    EvictionPolicy eviction = EvictionPolicy::kLru;
    int reader_threads = 4;  // without a link
  };

  // Reads every expert right away when there is a slot for each. `source` must outlive the store,
  // and is not used where there is a host tier. Throws Error(kUnsupported) for fewer slots than
  // experts in a device's memory without a link.
  ExpertStore(const ExpertLayout& layout, const Options& options, const ExpertSource& source,
              ThreadPool& pool);
  // Waits for the copies under way.
  ~ExpertStore();
  ExpertStore(const ExpertStore&) = delete;
  ExpertStore& operator=(const ExpertStore&) = delete;

  const ExpertLayout& layout() const { return layout_; }
  const std::byte* slab() const { return slab_.data(); }
  int num_slots() const { return static_cast<int>(slots_.size()); }
  int NumFreeSlots() const { return static_cast<int>(free_.size()); }  // that no expert has
  int num_experts() const { return options_.experts.num_experts(); }   // of a layer
  const ExpertSet& experts() const { return options_.experts; }
  uint64_t NumBytes() const { return slab_.size(); }  // of all slots
  bool AllResident() const { return num_slots() == options_.experts.size(); }
  HostExperts* host() const { return options_.host; }  // null without one
  ExpertLink* link() const { return options_.link; }   // likewise

  // [num_experts] i32, in the slab's kind of memory: the slot of each expert of `layer`. Only when
  // AllResident(); it never changes then.
  ConstTensorView SlotTable(int layer) const;

  // Where an expert is. All but kAway pass, by Pump or by eviction.
  enum class Place {
    kSlot,     // in a slot, or its copy there is queued
    kReading,  // being read from the source; it has a slot
    kAway,     // none of these
    kFailed,   // it was asked for and could not be read (TakeFailure)
  };
  Place PlaceOf(int layer, int32_t expert) const;
  // Whether its place is kSlot and its bytes have arrived.
  bool Ready(int layer, int32_t expert) { return ReadySlot(layer, expert) >= 0; }
  // The slot it can be read from now, or -1. Nothing keeps it there but a lease.
  int32_t ReadySlot(int layer, int32_t expert);

  // Begins to bring an expert that is kAway: it is kSlot or kReading then. False where no slot can
  // be given up for it now, and nothing has changed. A demand takes any slot that is not pinned,
  // being read to, or still to be pinned by the layer's run; a prefetch none besides whose expert
  // is expected to be needed before its own, or was itself prefetched and has not had its layer's
  // run. A prefetched expert that cannot be read is kAway again.
  bool Fetch(int layer, int32_t expert, FetchReason reason);

  // Takes note of what was read, and queues its copies. With `wait`, first waits for a read, or if
  // none is under way for the last copy queued. False where neither was under way: what has not
  // come by now will not, nor will a slot become free by itself.
  bool Pump(bool wait);

  // Why it could not be read, naming it and the cause; it is kAway then, and can be fetched again.
  std::string TakeFailure(int layer, int32_t expert);

  // Pins experts whose place is kSlot. Several leases may hold the same.
  ExpertLease Pin(int layer, std::span<const int32_t> experts);

  // `layer` is the one that runs now. What was fetched for the run before is not kept any longer.
  void BeginLayer(int layer);
  // Tokens on each expert in the run of the layer begun last. [num_experts] Before its experts are
  // fetched: those with any are what the run needs, others that were prefetched may leave.
  void NoteUse(int layer, std::span<const int32_t> tokens);
  // One that the run reads though no token needs it keeps its slot as well. Its place is kSlot or
  // kReading.
  void Keep(int layer, int32_t expert);
  // Tokens expected on each expert in the layer's next run. [num_experts]
  void Expect(int layer, std::span<const double> tokens);

  // Since construction: experts that layers' runs needed, and those of them in no slot.
  uint64_t requests() const { return requests_; }
  uint64_t misses() const { return misses_; }

 private:
  friend class ExpertLease;

  struct Slot {
    int32_t owner = -1;  // index of the expert; -1 when free
    int32_t pins = 0;
    bool reading = false;                       // its expert is still being read from the source
    FetchReason reason = FetchReason::kDemand;  // of its fetch
    // Still to be pinned: by the run of its layer (a demand), or one that is expected.
    std::optional<FetchReason> awaited = {};
    uint64_t generation = 0;         // advanced whenever the owner changes
    ExpertLink::Ticket written = 0;  // the last copy into it
    ExpertLink::Mark readers = 0;    // what was computed with it last

    bool IsBusy() const { return pins > 0 || reading; }
  };
  // Of a layer's experts, the first to leave; -1 where none can.
  struct Candidate {
    int32_t slot = -1;
    bool known = false;
  };

  void LoadAll();
  void LoadAllToDevice();
  void ReadNow(int32_t index, std::byte* target) const;
  std::byte* SlotData(int32_t slot) const { return slab_.data() + slot * layout_.SlotBytes(); }

  void PrepareFetching();
  int32_t FindVictim(int32_t index, FetchReason reason);
  int32_t CandidateOf(int ordinal);
  int32_t FindPrefetched() const;
  void Evict(int32_t at);
  void Vacate(int32_t at);
  ExpertLink::Label LabelOf(const Slot& slot) const;
  void QueueCopy(int32_t at);
  void NoteRead(ExpertRead& read);
  void AwaitSlots(std::span<const int32_t> slots);
  void EndLease(std::span<const int32_t> slots);
  void ForgetCandidate(int32_t index) { candidates_[index / num_experts()].known = false; }

  ExpertLayout layout_;
  Options options_;
  const ExpertSource& source_;
  ThreadPool& pool_;
  Buffer slab_;
  std::vector<int32_t> table_;  // [layers, experts] -> slot, also while it is read to; -1 = none
  std::vector<Slot> slots_;
  Tensor slot_table_;  // [layers, experts] i32, a copy of table_ for kernels; when AllResident()

  // Where not all are resident.
  std::vector<int32_t> free_;  // slots of nobody
  EvictionOrder order_;
  std::vector<Candidate> candidates_;                  // [layers]
  int running_ = -1;                                   // the layer that runs, as an ordinal
  std::unordered_map<int32_t, std::string> failures_;  // by expert's index
  ExpertLink::Ticket last_queued_ = 0;                 // copy or poison
  std::optional<ExpertReaders> readers_;               // without a link; ends before the slab
  std::vector<ExpertRead> ended_;                      // scratch of Pump
  uint64_t requests_ = 0;
  uint64_t misses_ = 0;
};

}  // namespace sluice
