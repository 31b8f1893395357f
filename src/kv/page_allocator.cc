#include "kv/page_allocator.h"

#include <utility>

#include "base/check.h"
#include "base/log.h"

namespace sluice {

namespace {

constexpr PageId kNone = -1;

}  // namespace

PageHandle::PageHandle(const PageHandle& other) : allocator_(other.allocator_), id_(other.id_) {
  if (allocator_) allocator_->Acquire(id_);
}

PageHandle::PageHandle(PageHandle&& other) noexcept
    : allocator_(std::exchange(other.allocator_, nullptr)), id_(std::exchange(other.id_, kNone)) {}

PageHandle& PageHandle::operator=(PageHandle other) noexcept {
  std::swap(allocator_, other.allocator_);
  std::swap(id_, other.id_);
  return *this;
}

PageHandle::~PageHandle() {
  if (allocator_) allocator_->Release(id_);
}

PageList::PageList(PageList&& other) noexcept
    : allocator_(other.allocator_), ids_(std::exchange(other.ids_, {})) {}

PageList& PageList::operator=(PageList&& other) noexcept {
  if (this == &other) return *this;
  clear();
  allocator_ = other.allocator_;
  ids_ = std::exchange(other.ids_, {});
  return *this;
}

void PageList::push_back(PageHandle page) {
  SLUICE_CHECK(page.valid());
  SLUICE_CHECK(empty() || allocator_ == page.allocator_);
  ids_.push_back(page.id());
  allocator_ = std::exchange(page.allocator_, nullptr);  // its share is the list's now
}

void PageList::Replace(size_t nth, PageHandle page) {
  SLUICE_CHECK(allocator_ == page.allocator_);
  ids_.Replace(nth, std::exchange(page.id_, ids_[nth]));
}

void PageList::Truncate(size_t count) noexcept {
  while (ids_.size() > count) {
    allocator_->Release(ids_.back());
    ids_.pop_back();
  }
}

PageAllocator::PageAllocator(int num_pages) {
  SLUICE_CHECK_GE(num_pages, 0);
  pages_.resize(num_pages);
  for (PageId id = num_pages; id-- > 0;) Free(id);
}

PageAllocator::~PageAllocator() {
  if (num_free() == num_pages()) return;
  spdlog::error("{} of {} KV pages are still held at the end: a leak", num_pages() - num_free(),
                num_pages());
}

PageHandle PageAllocator::Allocate() {
  if (num_free_ == 0) return {};
  const PageId id = first_free_;
  Unfree(id);
  pages_[id].shares = 1;
  if (pages_[id].sealed) {
    pages_[id].sealed = false;
    if (on_eviction_) on_eviction_(id);
  }
  return {this, id};
}

PageHandle PageAllocator::Share(PageId id) {
  Page& page = pages_[id];
  SLUICE_CHECK(page.shares > 0 || page.sealed);
  if (page.shares == 0) Unfree(id);
  ++page.shares;
  return {this, id};
}

void PageAllocator::Seal(PageId id) {
  SLUICE_CHECK_GT(pages_[id].shares, 0);
  pages_[id].sealed = true;
}

void PageAllocator::Unseal(PageId id) {
  Page& page = pages_[id];
  SLUICE_CHECK(page.sealed);
  if (page.shares == 0) Unfree(id);
  page.sealed = false;
  if (page.shares == 0) Free(id);
}

void PageAllocator::Release(PageId id) noexcept {
  if (--pages_[id].shares == 0) Free(id);
}

// Puts a page that nobody holds among the free ones: before all others, or behind them if its
// contents are worth keeping.
void PageAllocator::Free(PageId id) noexcept {
  Page& page = pages_[id];
  page.before = page.sealed ? last_free_ : kNone;
  page.after = page.sealed ? kNone : first_free_;
  (page.before == kNone ? first_free_ : pages_[page.before].after) = id;
  (page.after == kNone ? last_free_ : pages_[page.after].before) = id;
  ++num_free_;
  num_cached_ += page.sealed;
}

void PageAllocator::Unfree(PageId id) noexcept {
  const Page& page = pages_[id];
  (page.before == kNone ? first_free_ : pages_[page.before].after) = page.after;
  (page.after == kNone ? last_free_ : pages_[page.after].before) = page.before;
  --num_free_;
  num_cached_ -= page.sealed;
}

}  // namespace sluice
