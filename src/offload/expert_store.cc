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
  for (const int32_t slot : slots_) {
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
  try {
    store_->EndLease(slots_);
  } catch (const Error& error) {  // the device has failed, and takes no more copies
    spdlog::warn("ending a hold on experts: {}", error.what());
  }
}

void ExpertLease::Await() const {
  store_->AwaitSlots(slots_);
}

void ExpertLease::CheckUnchanged() const {
  for (size_t i = 0; i < slots_.size(); ++i) {
    SLUICE_CHECK_EQ(store_->slots_[slots_[i]].generation, generations_[i]);
  }
}

ExpertStore::ExpertStore(const ExpertLayout& layout, const Options& options,
                         const ExpertSource& source, ThreadPool& pool)
    : layout_(layout),
      options_(options),
      source_(source),
      pool_(pool),
      order_(options.eviction, options.experts.num_layers(), options.experts.num_experts()) {
  const int all = options_.experts.size();
  const int num_slots = options_.num_slots == 0 ? all : std::min(options_.num_slots, all);
  SLUICE_CHECK_GE(num_slots, 1);
  SLUICE_CHECK_EQ(options_.link == nullptr, options_.host == nullptr);
  if (num_slots < all && options_.memory == MemoryKind::kCuda && options_.link == nullptr) {
    throw Error(ErrorCode::kUnsupported,
                "on a CUDA device every expert needs a slot where there is no host memory to bring "
                "others from: leave --expert-slots out, or run with --device cpu");
  }
  slab_ = Buffer(static_cast<size_t>(num_slots) * layout_.SlotBytes(), options_.memory);
  slots_.resize(num_slots);
  table_.assign(all, -1);
  candidates_.resize(options_.experts.num_layers());
  if (num_slots == all) {
    LoadAll();
  } else {
    PrepareFetching();
  }
}

ExpertStore::~ExpertStore() {
  if (options_.link == nullptr) return;
  try {
    options_.link->Wait(last_queued_);
    options_.host->ForgetCopies();
  } catch (const Error& error) {
    spdlog::warn("ending the copies of experts: {}", error.what());
  }
}

void ExpertStore::PrepareFetching() {
  free_.reserve(slots_.size());
  for (int32_t slot = num_slots() - 1; slot >= 0; --slot) free_.push_back(slot);
  if (options_.link == nullptr) {
    readers_.emplace(layout_, options_.experts, source_, options_.reader_threads);
  } else {
    SLUICE_CHECK_EQ(options_.host->experts().size(), options_.experts.size());
    SLUICE_CHECK_EQ(options_.host->layout().SlotBytes(), layout_.SlotBytes());
  }
}

void ExpertStore::LoadAll() {
  const int64_t all = options_.experts.size();
  slot_table_ =
      Tensor(DType::kI32, {options_.experts.num_layers(), num_experts()}, options_.memory);
  if (options_.memory == MemoryKind::kCuda) {
    LoadAllToDevice();
    options_.stream->Copy(slot_table_.view().raw(), table_.data(), slot_table_.view().NumBytes());
    options_.stream->Synchronize();
    return;
  }
  pool_.ParallelFor(all, 1, [this](int64_t begin, int64_t end, int) {
    for (auto i = static_cast<int32_t>(begin); i < end; ++i) {
      ReadNow(i, SlotData(i));
      slots_[i].owner = i;
      table_[i] = i;
    }
  });
  std::copy(table_.begin(), table_.end(), slot_table_.data<int32_t>());
}

void ExpertStore::LoadAllToDevice() {
  SLUICE_CHECK(options_.stream != nullptr);
  Staging staging(layout_.SlotBytes(), pool_.num_threads(), *options_.stream);
  pool_.ParallelFor(options_.experts.size(), 1, [&](int64_t begin, int64_t end, int) {
    for (auto i = static_cast<int32_t>(begin); i < end; ++i) {
      staging.Load(SlotData(i), [&](std::byte* memory) { ReadNow(i, memory); });
      slots_[i].owner = i;
      table_[i] = i;
    }
  });
}

void ExpertStore::ReadNow(int32_t index, std::byte* target) const {
  source_.Read(options_.experts.LayerOf(index), options_.experts.SourceExpertOf(index),
               SlotViewOf(layout_, target));
}

ConstTensorView ExpertStore::SlotTable(int layer) const {
  SLUICE_CHECK(AllResident());
  return slot_table_.view()[options_.experts.OrdinalOf(layer)];
}

ExpertStore::Place ExpertStore::PlaceOf(int layer, int32_t expert) const {
  const int32_t index = options_.experts.IndexOf(layer, expert);
  if (table_[index] >= 0) return slots_[table_[index]].reading ? Place::kReading : Place::kSlot;
  return !failures_.empty() && failures_.contains(index) ? Place::kFailed : Place::kAway;
}

int32_t ExpertStore::ReadySlot(int layer, int32_t expert) {
  const int32_t at = table_[options_.experts.IndexOf(layer, expert)];
  if (at < 0 || slots_[at].reading) return -1;
  return options_.link == nullptr || options_.link->Arrived(slots_[at].written) ? at : -1;
}

bool ExpertStore::Fetch(int layer, int32_t expert, FetchReason reason) {
  SLUICE_CHECK(PlaceOf(layer, expert) == Place::kAway);
  const int32_t index = options_.experts.IndexOf(layer, expert);
  const int32_t at = free_.empty() ? FindVictim(index, reason) : free_.back();
  if (at < 0) return false;
  HostExperts* host = options_.host;
  const bool is_near = host != nullptr && host->SlotOf(index) >= 0;
  if (host != nullptr && !is_near && !host->Begin(index, reason, *options_.link, order_)) {
    return false;
  }
  if (free_.empty()) {
    Evict(at);
  } else {
    free_.pop_back();
  }
  Slot& slot = slots_[at];
  slot.owner = index;
  slot.reading = !is_near;
  slot.reason = reason;
  slot.awaited = reason;
  table_[index] = at;
  order_.Touch(index);
  if (is_near) {
    QueueCopy(at);
  } else if (readers_) {
    readers_->Begin(index, SlotData(at), reason);
  }
  return true;
}

// The slot that is given up for an expert, or -1. Asks each layer for its candidate, which stays
// known until something changes in that layer: half a microsecond with 48 layers of 128 experts,
// where a copy takes some two hundred.
int32_t ExpertStore::FindVictim(int32_t index, FetchReason reason) {
  int32_t first = -1;
  for (int ordinal = 0; ordinal < options_.experts.num_layers(); ++ordinal) {
    const int32_t at = CandidateOf(ordinal);
    if (at < 0) continue;
    if (first < 0 || order_.LeavesBefore(slots_[at].owner, slots_[first].owner)) first = at;
  }
  if (reason == FetchReason::kDemand) return first >= 0 ? first : FindPrefetched();
  const bool is_worth_it =
      first >= 0 && order_.LayersUntilUse(slots_[first].owner) > order_.LayersUntilUse(index);
  return is_worth_it ? first : -1;
}

int32_t ExpertStore::CandidateOf(int ordinal) {
  Candidate& candidate = candidates_[ordinal];
  if (candidate.known) return candidate.slot;
  candidate = {.slot = -1, .known = true};
  const int32_t begin = ordinal * num_experts();
  for (int32_t index = begin; index < begin + num_experts(); ++index) {
    const int32_t at = table_[index];
    if (at < 0 || slots_[at].IsBusy() || slots_[at].awaited) continue;
    if (candidate.slot < 0 || order_.LeavesBefore(index, slots_[candidate.slot].owner)) {
      candidate.slot = at;
    }
  }
  return candidate.slot;
}

// Of what was prefetched and waits for its layer. That is a demand's last resort: nearly all slots
// hold what the running layer needs and the next is expected to, so they are few.
int32_t ExpertStore::FindPrefetched() const {
  int32_t first = -1;
  for (int32_t at = 0; at < num_slots(); ++at) {
    const Slot& slot = slots_[at];
    if (slot.IsBusy() || slot.awaited != FetchReason::kPrefetch) continue;
    if (first < 0 || order_.LeavesBefore(slot.owner, slots_[first].owner)) first = at;
  }
  return first;
}

void ExpertStore::Evict(int32_t at) {
  Vacate(at);
  if (!options_.poison_freed) return;
  Slot& slot = slots_[at];
  const auto bytes = static_cast<size_t>(layout_.SlotBytes());
  if (options_.link != nullptr) {
    last_queued_ = options_.link->Poison(SlotData(at), bytes, slot.readers);
  } else {
    std::memset(SlotData(at), 0xff, bytes);  // NaN in every float format
  }
}

void ExpertStore::Vacate(int32_t at) {
  Slot& slot = slots_[at];
  ForgetCandidate(slot.owner);
  table_[slot.owner] = -1;
  slot.owner = -1;
  slot.reading = false;
  slot.awaited.reset();
  ++slot.generation;
}

ExpertLink::Label ExpertStore::LabelOf(const Slot& slot) const {
  return {.name = slot.reason == FetchReason::kPrefetch ? "prefetch" : "demand",
          .facts = {.layer = options_.experts.LayerOf(slot.owner),
                    .expert = options_.experts.SourceExpertOf(slot.owner)}};
}

void ExpertStore::QueueCopy(int32_t at) {
  Slot& slot = slots_[at];
  HostExperts& host = *options_.host;
  slot.written =
      options_.link->Copy(SlotData(at), host.SlotData(host.SlotOf(slot.owner)),
                          static_cast<size_t>(layout_.SlotBytes()), slot.readers, LabelOf(slot));
  host.NoteCopy(slot.owner, slot.written);
  last_queued_ = slot.written;
}

bool ExpertStore::Pump(bool wait) {
  ended_.clear();
  bool under_way = false;
  if (readers_) {
    under_way = readers_->UnderWay() > 0;
    readers_->Collect(wait, ended_);
  } else if (options_.host != nullptr) {
    const bool reads = options_.host->ReadsUnderWay() > 0;
    under_way = reads || !options_.link->Arrived(last_queued_);
    if (wait && !reads) options_.link->Wait(last_queued_);
    options_.host->Collect(wait, ended_);
  }
  for (ExpertRead& read : ended_) NoteRead(read);
  return under_way;
}

void ExpertStore::NoteRead(ExpertRead& read) {
  const int32_t at = table_[read.index];
  if (at < 0 || !slots_[at].reading) return;  // asked for by a store before this one
  if (read.error.empty()) {
    slots_[at].reading = false;
    ForgetCandidate(read.index);
    if (options_.link != nullptr) QueueCopy(at);
    return;
  }
  if (slots_[at].reason == FetchReason::kDemand) failures_[read.index] = std::move(read.error);
  Vacate(at);
  free_.push_back(at);
}

std::string ExpertStore::TakeFailure(int layer, int32_t expert) {
  const auto failure = failures_.extract(options_.experts.IndexOf(layer, expert));
  SLUICE_CHECK(!failure.empty());
  return std::move(failure.mapped());
}

ExpertLease ExpertStore::Pin(int layer, std::span<const int32_t> experts) {
  std::vector<int32_t> slots;
  slots.reserve(experts.size());
  for (const int32_t expert : experts) {
    const int32_t index = options_.experts.IndexOf(layer, expert);
    SLUICE_CHECK(PlaceOf(layer, expert) == Place::kSlot);
    slots.push_back(table_[index]);
    slots_[table_[index]].awaited.reset();
    order_.Touch(index);
    ForgetCandidate(index);
  }
  return ExpertLease(this, std::move(slots));
}

void ExpertStore::AwaitSlots(std::span<const int32_t> slots) {
  if (options_.link == nullptr) return;
  ExpertLink::Ticket last = 0;
  for (const int32_t at : slots) last = std::max(last, slots_[at].written);
  options_.link->Await(last);
}

void ExpertStore::EndLease(std::span<const int32_t> slots) {
  bool any_free = false;
  for (const int32_t at : slots) {
    SLUICE_CHECK_GT(slots_[at].pins, 0);
    if (--slots_[at].pins == 0) any_free = true;
  }
  ExpertLink::Mark mark = 0;
  if (any_free && options_.link != nullptr) mark = options_.link->MarkReaders();
  for (const int32_t at : slots) {
    if (slots_[at].pins > 0) continue;
    slots_[at].readers = mark;
    ForgetCandidate(slots_[at].owner);
  }
}

void ExpertStore::BeginLayer(int layer) {
  if (running_ >= 0) {
    for (int32_t index = running_ * num_experts(); index < (running_ + 1) * num_experts();
         ++index) {
      if (table_[index] >= 0) slots_[table_[index]].awaited.reset();
    }
    candidates_[running_].known = false;
  }
  running_ = options_.experts.OrdinalOf(layer);
  order_.BeginLayer(running_);
}

void ExpertStore::NoteUse(int layer, std::span<const int32_t> tokens) {
  SLUICE_CHECK_EQ(options_.experts.OrdinalOf(layer), running_);
  order_.NoteRun(running_, tokens);
  candidates_[running_].known = false;
  for (int32_t expert = 0; expert < num_experts(); ++expert) {
    const int32_t at = table_[running_ * num_experts() + expert];
    if (tokens[expert] == 0) {
      if (at >= 0) slots_[at].awaited.reset();
      continue;
    }
    ++requests_;
    if (at < 0 || slots_[at].reading) ++misses_;
    if (at >= 0) slots_[at].awaited = FetchReason::kDemand;
  }
}

void ExpertStore::Keep(int layer, int32_t expert) {
  const int32_t index = options_.experts.IndexOf(layer, expert);
  SLUICE_CHECK_GE(table_[index], 0);
  slots_[table_[index]].awaited = FetchReason::kDemand;
  ForgetCandidate(index);
}

void ExpertStore::Expect(int layer, std::span<const double> tokens) {
  const int ordinal = options_.experts.OrdinalOf(layer);
  order_.Expect(ordinal, tokens);
  candidates_[ordinal].known = false;
}

}  // namespace sluice
