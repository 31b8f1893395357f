#include "tokenizer/word_cache.h"

#include <algorithm>
#include <cstring>

namespace sluice {
namespace {

// 2^64 / golden ratio, odd.
constexpr uint64_t kMultiplier = 0x9E3779B97F4A7C15u;

uint64_t Mix(uint64_t hash, uint64_t bytes) {
  hash = (hash ^ bytes) * kMultiplier;
  return hash ^ (hash >> 32);
}

}  // namespace

uint64_t WordCache::Hash(std::string_view word) {
  uint64_t hash = word.size() * kMultiplier;
  const char* data = word.data();
  size_t size = word.size();
  for (; size >= 8; size -= 8, data += 8) {
    uint64_t bytes;
    std::memcpy(&bytes, data, 8);
    hash = Mix(hash, bytes);
  }
  uint64_t bytes = 0;
  if (size > 0) std::memcpy(&bytes, data, size);
  return Mix(hash, bytes) * kMultiplier;
}

bool WordCache::Append(std::string_view word, uint64_t hash, std::vector<TokenId>* ids) const {
  if (entries_.empty()) return false;
  const Entry& entry = entries_[hash >> (64 - kBits)];
  if (entry.word_size != word.size() ||
      std::memcmp(entry.word.data(), word.data(), word.size()) != 0) {
    return false;
  }
  ids->insert(ids->end(), entry.ids.begin(), entry.ids.begin() + entry.id_count);
  return true;
}

void WordCache::Set(std::string_view word, uint64_t hash, std::span<const TokenId> ids) {
  if (word.empty() || !CanHold(word) || ids.size() > kMaxIds) return;
  if (entries_.empty()) entries_.resize(size_t{1} << kBits);
  Entry& entry = entries_[hash >> (64 - kBits)];
  entry.word_size = static_cast<uint8_t>(word.size());
  entry.id_count = static_cast<uint8_t>(ids.size());
  std::copy(word.begin(), word.end(), entry.word.begin());
  std::copy(ids.begin(), ids.end(), entry.ids.begin());
}

}  // namespace sluice
