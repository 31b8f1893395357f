#include "kv/prefix_cache.h"

#include <algorithm>
#include <bit>
#include <random>
#include <utility>

#include "base/check.h"

namespace sluice {

namespace {

constexpr PageId kNone = -1;

uint64_t Mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9E3779B97F4A7C15ull;
  return hash ^ (hash >> 32);
}

uint64_t DrawSeed() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

}  // namespace

PrefixCache::PrefixCache(PageAllocator& pages, int page_size)
    : pages_(pages),
      page_size_(static_cast<size_t>(page_size)),
      hash_seed_(DrawSeed()),
      nodes_(pages.num_pages()),
      tokens_(nodes_.size() * page_size_),
      buckets_(std::bit_ceil(nodes_.size() + 1), kNone) {
  SLUICE_CHECK_GE(page_size, 1);
  pages.OnEviction([this](PageId id) {
    Forget(id);
    ++evictions_;
  });
}

PageList PrefixCache::Find(std::string_view salt, std::span<const int32_t> tokens) {
  PageList found;
  PageId parent = kNone;
  for (; tokens.size() >= page_size_; tokens = tokens.subspan(page_size_)) {
    const auto page_tokens = tokens.first(page_size_);
    parent = Lookup(Hash(parent, salt, page_tokens), parent, salt, page_tokens);
    if (parent == kNone) break;
    found.push_back(pages_.Share(parent));
  }
  return found;
}

void PrefixCache::Seal(std::string_view salt, std::span<const int32_t> tokens, PageList& text,
                       size_t nth) {
  SLUICE_CHECK_EQ(tokens.size(), page_size_);
  const PageId parent = nth == 0 ? kNone : text[nth - 1];
  SLUICE_CHECK(parent == kNone || pages_.sealed(parent));
  const uint64_t hash = Hash(parent, salt, tokens);
  if (const PageId known = Lookup(hash, parent, salt, tokens); known != kNone) {
    text.Replace(nth, pages_.Share(known));
    return;
  }
  const PageId id = text[nth];
  SLUICE_CHECK(!pages_.sealed(id));
  pages_.Seal(id);
  nodes_[id] = {.parent = parent,
                .salt = std::string(parent == kNone ? salt : ""),
                .hash = hash,
                .next = std::exchange(BucketOf(hash), id)};
  std::copy(tokens.begin(), tokens.end(), TokensOf(id).begin());
  if (parent != kNone) ++nodes_[parent].children;
}

void PrefixCache::Clear() {
  for (PageId id = 0; id < pages_.num_pages(); ++id) {
    if (!pages_.sealed(id)) continue;
    SLUICE_CHECK_EQ(pages_.shares(id), 0);
    pages_.Unseal(id);
    nodes_[id] = {};
  }
  std::fill(buckets_.begin(), buckets_.end(), kNone);
}

std::span<int32_t> PrefixCache::TokensOf(PageId id) {
  return std::span(tokens_).subspan(static_cast<size_t>(id) * page_size_, page_size_);
}

uint64_t PrefixCache::Hash(PageId parent, std::string_view salt,
                           std::span<const int32_t> tokens) const {
  uint64_t hash = Mix(hash_seed_, static_cast<uint64_t>(parent));
  if (parent == kNone) {
    for (const char byte : salt) hash = Mix(hash, static_cast<unsigned char>(byte));
  }
  for (const int32_t token : tokens) hash = Mix(hash, static_cast<uint64_t>(token));
  return hash;
}

PageId PrefixCache::Lookup(uint64_t hash, PageId parent, std::string_view salt,
                           std::span<const int32_t> tokens) {
  for (PageId id = BucketOf(hash); id != kNone; id = nodes_[id].next) {
    const Node& node = nodes_[id];
    if (node.hash != hash || node.parent != parent) continue;
    if (parent == kNone && node.salt != salt) continue;
    if (std::equal(tokens.begin(), tokens.end(), TokensOf(id).begin())) return id;
  }
  return kNone;
}

void PrefixCache::Forget(PageId id) {
  Node& node = nodes_[id];
  SLUICE_CHECK_EQ(node.children, 0);
  if (node.parent != kNone) --nodes_[node.parent].children;
  PageId* link = &BucketOf(node.hash);
  while (*link != id) link = &nodes_[*link].next;
  *link = node.next;
  node = {};
}

}  // namespace sluice
