#pragma once

#include <array>
#include <boost/json/fwd.hpp>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer/token_id.h"

namespace sluice {

// Ids from here on are refused: a corrupt file could otherwise ask for any amount of memory. The
// largest published vocabularies have some 260,000 tokens.
inline constexpr TokenId kTokenIdEnd = 1 << 22;

// An id as JSON gives it. Throws Error(kDataLoss) unless it is an integer in [0, kTokenIdEnd).
TokenId TokenIdFromJson(const boost::json::value& json, std::string_view where);

// Byte pair encoding over the bytes of a word: again and again the adjacent pair with the lowest
// merge rank, the leftmost of equals, becomes one token. Immutable; safe to call from any thread.
class Bpe {
 public:
  struct Entry {
    TokenId id;
    std::string content;  // as in the file, bytes spelled as symbols
  };

  // Builds the "model" of tokenizer.json. Throws Error(kDataLoss) when it contradicts itself and
  // Error(kUnsupported) for options that change ids in ways not written here.
  static Bpe FromJson(const boost::json::value* json);

  // Appends the ids of one word. A byte that the vocabulary lacks is dropped, as Hugging Face's
  // implementation does. Time: O(n log n) for n bytes.
  void Encode(std::string_view word, std::vector<TokenId>* ids) const;

  // The vocabulary in the file's order, unique in id and content.
  std::span<const Entry> entries() const { return entries_; }

 private:
  struct Merge {
    uint32_t rank;
    TokenId merged;
  };
  // A table from pairs of ids to merges: open addressing, at most half full.
  class MergeTable {
   public:
    explicit MergeTable(size_t count);
    void Set(TokenId left, TokenId right, Merge merge);
    const Merge* Find(TokenId left, TokenId right) const;

   private:
    struct Slot {
      uint64_t key;
      Merge merge;
    };
    size_t SlotOf(uint64_t key) const;
    std::vector<Slot> slots_;
    int shift_;
  };
  struct WordHash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };

  Bpe(std::vector<Entry> entries, MergeTable merges)
      : entries_(std::move(entries)), merges_(std::move(merges)) {}
  void IndexWords(bool ignore_merges);
  void AppendMerged(std::string_view word, std::vector<TokenId>* ids) const;
  void MergeShort(std::vector<TokenId>* symbols, size_t begin) const;
  void MergeLong(std::vector<TokenId>* symbols, size_t begin) const;

  std::vector<Entry> entries_;
  MergeTable merges_;
  // The token of each single byte, or -1.
  std::array<TokenId, 256> byte_ids_;
  // Words known to encode to one token, by their bytes: nearly every token is such a word, so most
  // words of a text need no merging.
  std::unordered_map<std::string, TokenId, WordHash, std::equal_to<>> whole_words_;
};

}  // namespace sluice
