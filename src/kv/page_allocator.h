#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "kv/block_table.h"

namespace sluice {

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
  friend class PageList;
  PageHandle(PageAllocator* allocator, PageId id) : allocator_(allocator), id_(id) {}

  PageAllocator* allocator_ = nullptr;
  PageId id_ = -1;
};

// Shares in the pages of one text, in the order of its positions. Gives them back from the last to
// the first: of cached pages a text's end is then given up before its beginning, without which it
// is worth nothing. All are of one allocator.
class PageList {
 public:
  PageList() = default;
  PageList(PageList&& other) noexcept;
  PageList& operator=(PageList&& other) noexcept;
  ~PageList() { clear(); }

  size_t size() const { return ids_.size(); }
  bool empty() const { return ids_.empty(); }
  PageId operator[](size_t nth) const { return ids_[nth]; }
  const BlockTable& ids() const { return ids_; }

  // `page` must be valid.
  void push_back(PageHandle page);
  void Replace(size_t nth, PageHandle page);
  // Gives back all but the first `count`.
  void Truncate(size_t count) noexcept;
  void clear() noexcept { Truncate(0); }

 private:
  PageAllocator* allocator_ = nullptr;  // of the pages, if there are any
  BlockTable ids_;                      // a share in each
};

// Bookkeeping of a fixed number of KV pages. Knows ids and shares only; the memory is PagePool's.
// Must outlive its handles.
//
// A page is held, by one share or more, or free. A page that was sealed while it was held keeps its
// contents: it is cached once it is free, and can be shared again until Allocate has no other page
// to give. Of the cached pages it gives the one that has been free for longest.
class PageAllocator {
 public:
  explicit PageAllocator(int num_pages);
  ~PageAllocator();  // logs pages still held: a leak
  PageAllocator(const PageAllocator&) = delete;
  PageAllocator& operator=(const PageAllocator&) = delete;

  // A free page, not sealed, or an invalid handle when there is none.
  PageHandle Allocate();
  // One more share in a page that is held or cached.
  PageHandle Share(PageId id);

  // Says that the contents of a held page are complete, and worth keeping.
  void Seal(PageId id);
  // A sealed page's contents are worth nothing any more.
  void Unseal(PageId id);
  // Is called with each cached page that Allocate is about to give, which is not sealed any more.
  void OnEviction(std::function<void(PageId)> callback) { on_eviction_ = std::move(callback); }

  int num_pages() const { return static_cast<int>(pages_.size()); }
  int num_free() const { return num_free_; }      // that Allocate can give
  int num_cached() const { return num_cached_; }  // of the free ones, those that are sealed
  int shares(PageId id) const { return pages_[id].shares; }
  bool sealed(PageId id) const { return pages_[id].sealed; }

 private:
  friend class PageHandle;
  friend class PageList;

  struct Page {
    int32_t shares = 0;
    bool sealed = false;
    PageId before = -1;  // neighbours among the free pages, while it is one
    PageId after = -1;
  };

  void Acquire(PageId id) { ++pages_[id].shares; }
  void Release(PageId id) noexcept;
  void Free(PageId id) noexcept;
  void Unfree(PageId id) noexcept;

  std::vector<Page> pages_;
  // The free pages: those that are not sealed, the latest first, then those that are, the earliest
  // first.
  PageId first_free_ = -1;
  PageId last_free_ = -1;
  int num_free_ = 0;
  int num_cached_ = 0;
  std::function<void(PageId)> on_eviction_;
};

}  // namespace sluice
