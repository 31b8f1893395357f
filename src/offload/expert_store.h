#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "device/buffer.h"
#include "device/cuda_stream.h"
#include "device/tensor.h"

namespace sluice {

// How one expert's three matrices lie in a slot: gate [ffn, hidden], up [ffn, hidden] right behind
// it (one [2*ffn, hidden] matrix to a kernel), then down [hidden, ffn].
struct ExpertLayout {
  int64_t hidden = 0;
  int64_t ffn = 0;
  DType dtype = DType::kF32;

  int64_t GateUpBytes() const { return 2 * ffn * hidden * static_cast<int64_t>(SizeOf(dtype)); }
  int64_t DownOffset() const { return RoundUp(GateUpBytes()); }
  // A slot's stride: both parts start on a cache line.
  int64_t SlotBytes() const {
    return DownOffset() + RoundUp(hidden * ffn * static_cast<int64_t>(SizeOf(dtype)));
  }

 private:
  static constexpr int64_t RoundUp(int64_t bytes) { return (bytes + 63) / 64 * 64; }
};

// Where an expert's matrices are written when it enters a slot.
struct ExpertSlotView {
  TensorView gate;  // [ffn, hidden]
  TensorView up;    // [ffn, hidden]
  TensorView down;  // [hidden, ffn]
};

// Supplies the bytes of experts that are not in a slot, always into host memory. Called from
// several threads at once.
class ExpertSource {
 public:
  virtual ~ExpertSource() = default;
  virtual void Read(int layer, int expert, const ExpertSlotView& target) const = 0;
};

class ExpertStore;

// A hold on the experts of one layer that a step is about to read: they stay in their slots until
// the lease ends. Move-only; must not outlive its store.
class ExpertLease {
 public:
  ExpertLease(ExpertLease&& other) noexcept;
  ExpertLease& operator=(ExpertLease&&) = delete;
  ~ExpertLease();

  // The slot of each expert asked for, in the order asked. [n]
  std::span<const int32_t> slots() const { return slots_; }

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
// numbers; what is evicted, replicated or moved changes numbers, never an address. With a slot for
// every expert the store fills itself once and is a plain table; with fewer it evicts the least
// recently used expert that no lease holds, and the caller runs a layer's experts in waves of at
// most num_slots().
//
// Used by one thread; loading spreads over the pool.
class ExpertStore {
 public:
  struct Options {
    std::vector<int> layers;  // the MoE layers, ascending
    int num_experts = 0;      // experts of a layer held here
    int first_expert =
        0;              // id that the source knows expert 0 by: >0 on later expert-parallel ranks
    int num_slots = 0;  // 0 = a slot for every expert of every layer
    bool poison_freed = false;  // overwrite evicted slots with NaN, so that a stale read shows
    // Of the slab and the slot table. With kCuda `stream` carries the copies: it is used while the
    // store is made, and that ends when they have arrived.
    MemoryKind memory = MemoryKind::kHost;
    CudaStream* stream = nullptr;
  };

  // Reads every expert right away when there is a slot for each. `source` must outlive the store.
  // Throws Error(kUnsupported) for fewer slots than experts in a device's memory.
  ExpertStore(const ExpertLayout& layout, const Options& options, const ExpertSource& source,
              ThreadPool& pool);

  const ExpertLayout& layout() const { return layout_; }
  const std::byte* slab() const { return slab_.data(); }
  int num_slots() const { return static_cast<int>(slots_.size()); }
  int num_experts() const { return options_.num_experts; }
  uint64_t NumBytes() const { return slab_.size(); }  // of all slots
  bool AllResident() const { return num_slots() == NumExpertsInAll(); }

  // [num_experts] i32, in the slab's kind of memory: the slot of each expert of `layer`. Only when
  // AllResident(); it never changes then.
  ConstTensorView SlotTable(int layer) const;

  // Brings the experts (ids in [0, num_experts), distinct, at most num_slots() of them) into slots
  // and pins them.
  ExpertLease Acquire(int layer, std::span<const int32_t> experts);

  // Since construction: experts asked for, and those that had to be read.
  uint64_t requests() const { return requests_; }
  uint64_t misses() const { return misses_; }

 private:
  friend class ExpertLease;

  struct Slot {
    int32_t owner = -1;  // index into table_, or -1 when free
    int32_t pins = 0;
    uint64_t generation = 0;  // advanced whenever the owner changes
    uint64_t last_used = 0;
  };

  int NumExpertsInAll() const {
    return static_cast<int>(options_.layers.size()) * options_.num_experts;
  }
  int32_t TableIndex(int layer, int32_t expert) const;
  int32_t TakeSlot();
  void LoadAll();
  void LoadAllToDevice();
  void Load(int32_t table_index, int32_t slot);
  void Read(int32_t table_index, std::byte* target) const;
  std::byte* SlotData(int32_t slot) const { return slab_.data() + slot * layout_.SlotBytes(); }

  ExpertLayout layout_;
  Options options_;
  const ExpertSource& source_;
  ThreadPool& pool_;
  Buffer slab_;
  std::vector<int32_t> layer_ordinal_;  // [layer] -> row of the table, -1 for dense layers
  std::vector<int32_t> table_;          // [layers, experts] -> slot, -1 = not in a slot
  std::vector<Slot> slots_;
  Tensor slot_table_;  // [layers, experts] i32, a copy of table_ for kernels; when AllResident()
  uint64_t clock_ = 0;
  uint64_t requests_ = 0;
  uint64_t misses_ = 0;
};

}  // namespace sluice
