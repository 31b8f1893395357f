#pragma once

#include <cstdint>
#include <vector>

namespace sluice {

using PageId = int32_t;

class PageAllocator;

// A share in one KV page. Copying adds a share; the page goes back to its allocator when the last
// share is gone. Used by one thread (the scheduler's).
class PageHandle {
 public:
  PageHandle() = default;
  PageHandle(const PageHandle& other);
  PageHandle(PageHandle&& other) noexcept;
  PageHandle& operator=(PageHandle other) noexcept;
  ~PageHandle();

  bool valid() const { return allocator_ != nullptr; }
  PageId id() const { return id_; }

 private:
  friend class PageAllocator;
  PageHandle(PageAllocator* allocator, PageId id) : allocator_(allocator), id_(id) {}

  PageAllocator* allocator_ = nullptr;
  PageId id_ = -1;
};

// Bookkeeping of a fixed number of KV pages. Knows ids and shares only; the memory is PagePool's.
// Must outlive its handles.
class PageAllocator {
 public:
  explicit PageAllocator(int num_pages);
  ~PageAllocator();  // logs pages still held: a leak
  PageAllocator(const PageAllocator&) = delete;
  PageAllocator& operator=(const PageAllocator&) = delete;

  // A free page, or an invalid handle when there is none.
  PageHandle Allocate();

  int num_pages() const { return static_cast<int>(shares_.size()); }
  int num_free() const { return static_cast<int>(free_.size()); }
  int shares(PageId id) const { return shares_[id]; }

 private:
  friend class PageHandle;
  void Acquire(PageId id);
  void Release(PageId id) noexcept;

  std::vector<int32_t> shares_;
  std::vector<PageId> free_;
};

}  // namespace sluice
