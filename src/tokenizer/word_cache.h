#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "tokenizer/token_id.h"

namespace sluice {

// The ids of words that were encoded before. Bounded: a word takes the place of another with the
// same hash. Words or ids too long for an entry are not kept. Not thread-safe.
class WordCache {
 public:
  static uint64_t Hash(std::string_view word);
  static bool CanHold(std::string_view word) { return word.size() <= kMaxWord; }

  // Appends the word's ids, if they are known, and returns whether they are.
  bool Append(std::string_view word, uint64_t hash, std::vector<TokenId>* ids) const;

  void Set(std::string_view word, uint64_t hash, std::span<const TokenId> ids);

 private:
  // Two cache lines an entry, half a megabyte in all.
  static constexpr size_t kMaxWord = 62;
  static constexpr size_t kMaxIds = 16;
  static constexpr int kBits = 12;
  struct Entry {
    std::array<TokenId, kMaxIds> ids;
    uint8_t word_size = 0;
    uint8_t id_count = 0;
    std::array<char, kMaxWord> word;
  };

  // Allocated with the first word.
  std::vector<Entry> entries_;
};

}  // namespace sluice
