#include "allocation_watch.h"

#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>

namespace {

std::atomic<size_t> held{0};
std::atomic<size_t> most{0};
std::atomic<size_t> start{0};
std::atomic<size_t> largest_block{0};

void Raise(std::atomic<size_t>& value, size_t to) {
  size_t seen = value.load(std::memory_order_relaxed);
  while (seen < to && !value.compare_exchange_weak(seen, to, std::memory_order_relaxed)) {
  }
}

void* Counted(void* memory, size_t asked) {
  Raise(largest_block, asked);  // refused or not
  if (memory == nullptr) throw std::bad_alloc();
  const size_t bytes = malloc_usable_size(memory);
  Raise(most, held.fetch_add(bytes, std::memory_order_relaxed) + bytes);
  return memory;
}

void Release(void* memory) {
  if (memory == nullptr) return;
  held.fetch_sub(malloc_usable_size(memory), std::memory_order_relaxed);
  std::free(memory);
}

}  // namespace

void* operator new(size_t size) {
  return Counted(std::malloc(std::max<size_t>(size, 1)), size);
}
void* operator new(size_t size, std::align_val_t alignment) {
  const auto align = static_cast<size_t>(alignment);
  return Counted(std::aligned_alloc(align, (std::max<size_t>(size, 1) + align - 1) / align * align),
                 size);
}
void operator delete(void* memory) noexcept {
  Release(memory);
}
void operator delete(void* memory, size_t) noexcept {
  Release(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
  Release(memory);
}
void operator delete(void* memory, size_t, std::align_val_t) noexcept {
  Release(memory);
}

namespace sluice::testing {

AllocationWatch::AllocationWatch() {
  start = held.load();
  most = held.load();
  largest_block = 0;
}

size_t AllocationWatch::largest() const {
  return largest_block;
}
size_t AllocationWatch::peak() const {
  return most - start;
}

}  // namespace sluice::testing
