#include "offload/expert_store.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <utility>

#include "base/check.h"
#include "base/error.h"

namespace sluice {
namespace {

// Pinned memory that loading threads read experts into and copies leave from. A thread that takes a
// piece waits for the oldest copy alone, so reading goes on beside the copies.
class Staging {
 public:
  Staging(int64_t bytes, int threads, CudaStream& stream) : stream_(stream) {
    const int64_t count = std::clamp<int64_t>(kMostBytes / bytes, 2, 2 * threads);
    for (int64_t i = 0; i < count; ++i) {
      free_.push_back({.memory = Buffer(static_cast<size_t>(bytes), MemoryKind::kPinned)});
    }
  }
  // The copies leave from this memory.
  ~Staging() { Drain(); }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // Calls read(memory) and queues the copy of what it wrote to `target`. From several threads.
  template <class Read>
  void Load(std::byte* target, const Read& read) {
    Piece piece = Take();
    try {
      read(piece.memory.data());
    } catch (...) {
      const std::lock_guard lock(mutex_);
      Return(std::move(piece));
      throw;
    }
    const std::lock_guard lock(mutex_);
    stream_.Copy(target, piece.memory.data(), piece.memory.size());
    piece.sent.Record(stream_);
    piece.in_flight = true;
    Return(std::move(piece));
  }

 private:
  static constexpr int64_t kMostBytes = int64_t{1} << 30;

  struct Piece {
    Buffer memory;
    CudaEvent sent = {};  // behind the last copy out of `memory`
    bool in_flight = false;
  };

  // A piece that nothing reads any more.
  Piece Take() {
    std::unique_lock lock(mutex_);
    returned_.wait(lock, [this] { return !free_.empty(); });
    Piece piece = std::move(free_.front());
    free_.pop_front();
    lock.unlock();
    if (piece.in_flight) piece.sent.Synchronize();
    piece.in_flight = false;
    return piece;
  }

  void Return(Piece piece) {
    free_.push_back(std::move(piece));
    returned_.notify_one();
  }

  void Drain() {
    try {
      stream_.Synchronize();
    } catch (const Error& error) {
      spdlog::warn("ending the copies of experts: {}", error.what());
    }
  }

  CudaStream& stream_;
  std::mutex mutex_;  // guards the stream and free_
  std::condition_variable returned_;
  std::deque<Piece> free_;  // the oldest copy first
};

}  // namespace

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
  if (num_slots < all && options_.memory == MemoryKind::kCuda) {
    throw Error(ErrorCode::kUnsupported,
                "on a CUDA device every expert needs a slot: leave --expert-slots out, or run with "
                "--device cpu");
  }
  slab_ = Buffer(static_cast<size_t>(num_slots) * layout_.SlotBytes(), options_.memory);
  slots_.resize(num_slots);
  table_.assign(all, -1);
  if (num_slots == all) LoadAll();
}

void ExpertStore::LoadAll() {
  const int64_t all = NumExpertsInAll();
  slot_table_ =
      Tensor(DType::kI32, {std::ssize(options_.layers), options_.num_experts}, options_.memory);
  if (options_.memory == MemoryKind::kCuda) {
    LoadAllToDevice();
    options_.stream->Copy(slot_table_.view().raw(), table_.data(), slot_table_.view().NumBytes());
    options_.stream->Synchronize();
    return;
  }
  pool_.ParallelFor(all, 1, [this](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) Load(static_cast<int32_t>(i), static_cast<int32_t>(i));
  });
  std::copy(table_.begin(), table_.end(), slot_table_.data<int32_t>());
}

void ExpertStore::LoadAllToDevice() {
  SLUICE_CHECK(options_.stream != nullptr);
  Staging staging(layout_.SlotBytes(), pool_.num_threads(), *options_.stream);
  pool_.ParallelFor(NumExpertsInAll(), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const auto index = static_cast<int32_t>(i);
      staging.Load(SlotData(index), [&](std::byte* memory) { Read(index, memory); });
      slots_[index].owner = index;
      table_[index] = index;
    }
  });
}

ConstTensorView ExpertStore::SlotTable(int layer) const {
  SLUICE_CHECK(AllResident());
  return slot_table_.view()[TableIndex(layer, 0) / options_.num_experts];
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
    std::memset(SlotData(best), 0xff, layout_.SlotBytes());
  }
  return best;
}

void ExpertStore::Load(int32_t table_index, int32_t slot) {
  Read(table_index, SlotData(slot));
  slots_[slot].owner = table_index;
  table_[table_index] = slot;
}

void ExpertStore::Read(int32_t table_index, std::byte* target) const {
  const int layer = options_.layers[table_index / options_.num_experts];
  const int expert = options_.first_expert + table_index % options_.num_experts;
  const int64_t gate_bytes = layout_.GateUpBytes() / 2;
  source_.Read(layer, expert,
               {.gate = TensorView(target, layout_.dtype, {layout_.ffn, layout_.hidden}),
                .up = TensorView(target + gate_bytes, layout_.dtype, {layout_.ffn, layout_.hidden}),
                .down = TensorView(target + layout_.DownOffset(), layout_.dtype,
                                   {layout_.hidden, layout_.ffn})});
}

}  // namespace sluice
