#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kv/page_allocator.h"

namespace sluice {

// Finds the pages that hold the keys and values of a text's beginning, so that it need not be
// computed again. Its pages are sealed: full, of tokens that will not change, and computed. They
// form trees: below a page are those of the tokens that were seen to come after it. A page is known
// by the page before it and by its own tokens, all of which are compared, so that no text is ever
// given another's keys and values.
//
// Texts of one salt find each other's pages, those of another never do. All else that keys and
// values depend on (model, number format, page size) belongs to the pool that `pages` counts, and
// the cache with it. Used by one thread (the scheduler's).
//
// Whoever holds a sealed page holds those before it too (a PageList), and gives them back later. So
// pages at the end of a text are evicted before those they come after.
class PrefixCache {
 public:
  // `pages` must outlive the cache, which is told of its evictions.
  PrefixCache(PageAllocator& pages, int page_size);
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  // Shares in the pages of the longest beginning of `tokens` that is known, whole pages only.
  PageList Find(std::string_view salt, std::span<const int32_t> tokens);

  // Seals page `nth` of a text, which holds its `tokens` [page_size]; the pages before it are
  // sealed. Where a page with the same text is known, that one takes its place in `text`.
  void Seal(std::string_view salt, std::span<const int32_t> tokens, PageList& text, size_t nth);

  // Forgets every page: their contents are gone. Nobody may hold a sealed one.
  void Clear();

  uint64_t evictions() const { return evictions_; }

 private:
  struct Node {
    PageId parent = -1;  // -1: the text begins here
    std::string salt;    // of the text, where it begins here
    uint64_t hash = 0;
    PageId next = -1;  // in the same bucket
    int32_t children = 0;
  };

  std::span<int32_t> TokensOf(PageId id);
  uint64_t Hash(PageId parent, std::string_view salt, std::span<const int32_t> tokens) const;
  PageId Lookup(uint64_t hash, PageId parent, std::string_view salt,
                std::span<const int32_t> tokens);
  PageId& BucketOf(uint64_t hash) { return buckets_[hash & (buckets_.size() - 1)]; }
  void Forget(PageId id);

  PageAllocator& pages_;
  const size_t page_size_;
  const uint64_t hash_seed_;  // of this process: nobody can choose texts that fall into one bucket
  std::vector<Node> nodes_;   // of sealed pages, by id
  std::vector<int32_t> tokens_;  // [pages, page_size]
  std::vector<PageId> buckets_;  // by hash: the first page of each
  uint64_t evictions_ = 0;
};

}  // namespace sluice
