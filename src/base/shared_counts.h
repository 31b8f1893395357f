#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace sluice {

// Counts in memory that another process can map too: a server reads what its worker's process
// counts, and a worker that takes the place of a lost one counts on. One thread of one process
// writes; any may read meanwhile.
class SharedCounts {
 public:
  // Makes the memory, zero. Throws Error(kResourceExhausted) where there is none.
  explicit SharedCounts(size_t size);
  // Maps `memory`, the descriptor() of another process's, as a child inherits it. Takes it.
  SharedCounts(size_t size, int memory);
  ~SharedCounts();
  SharedCounts(const SharedCounts&) = delete;
  SharedCounts& operator=(const SharedCounts&) = delete;

  size_t size() const { return size_; }
  int descriptor() const { return descriptor_; }  // stays open on exec

  uint64_t Read(size_t place) const { return counts_[place].load(std::memory_order_relaxed); }
  void Set(size_t place, uint64_t count) { counts_[place].store(count, std::memory_order_relaxed); }
  void Add(size_t place, uint64_t more) { Set(place, Read(place) + more); }

 private:
  using Count = std::atomic<uint64_t>;
  static_assert(Count::is_always_lock_free);

  const size_t size_;
  const int descriptor_;
  Count* counts_ = nullptr;
};

}  // namespace sluice
