#include "kv/page_allocator.h"

#include <utility>

#include "base/check.h"
#include "base/log.h"

namespace sluice {

PageHandle::PageHandle(const PageHandle& other) : allocator_(other.allocator_), id_(other.id_) {
  if (allocator_) allocator_->Acquire(id_);
}

PageHandle::PageHandle(PageHandle&& other) noexcept
    : allocator_(std::exchange(other.allocator_, nullptr)), id_(std::exchange(other.id_, -1)) {}

PageHandle& PageHandle::operator=(PageHandle other) noexcept {
  std::swap(allocator_, other.allocator_);
  std::swap(id_, other.id_);
  return *this;
}

PageHandle::~PageHandle() {
  if (allocator_) allocator_->Release(id_);
}

PageAllocator::PageAllocator(int num_pages) {
  SLUICE_CHECK_GE(num_pages, 0);
  shares_.resize(num_pages);
  free_.reserve(num_pages);
  for (PageId id = num_pages; id-- > 0;) free_.push_back(id);
}

PageAllocator::~PageAllocator() {
  if (num_free() == num_pages()) return;
  spdlog::error("{} of {} KV pages are still held at the end: a leak", num_pages() - num_free(),
                num_pages());
}

PageHandle PageAllocator::Allocate() {
  if (free_.empty()) return {};
  const PageId id = free_.back();
  free_.pop_back();
  shares_[id] = 1;
  return {this, id};
}

void PageAllocator::Acquire(PageId id) {
  ++shares_[id];
}

// The reserve of the constructor holds every page, so this cannot allocate.
void PageAllocator::Release(PageId id) noexcept {
  if (--shares_[id] == 0) free_.push_back(id);
}

}  // namespace sluice
