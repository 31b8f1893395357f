#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer/bpe_file.h"
#include "tokenizer/token_id.h"
#include "tokenizer/word_cache.h"

namespace sluice {

// Byte pair encoding of words: again and again the adjacent pair with the lowest merge rank, the
// leftmost of equals, becomes one token. Immutable; safe to call from any thread.
class Bpe {
 public:
  // What a word is made of before any merge.
  enum class Alphabet {
    kBytes,       // bytes, which the vocabulary spells as symbols (ByteLevel)
    kCharacters,  // code points
  };

  // Throws Error(kUnsupported) for a byte-level vocabulary that lacks a byte and has something else
  // to stand for it.
  Bpe(BpeFile file, Alphabet alphabet);

  // Appends the ids of one word. A byte or character that the vocabulary lacks and has nothing for
  // is dropped, as Hugging Face's implementation does. Time: O(n log n) for n bytes. `cache` is the
  // caller's own and serves this model only.
  void Encode(std::string_view word, WordCache* cache, std::vector<TokenId>* ids) const;

  // The vocabulary in the file's order, unique in id and content.
  std::span<const BpeFile::Entry> entries() const { return entries_; }

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
  // The token of each single character, in pages of 256 code points.
  class CharacterTable {
   public:
    CharacterTable();
    void Set(char32_t code_point, TokenId id);
    // -1 for a character that is no token.
    TokenId Find(char32_t code_point) const;

   private:
    static constexpr size_t kPageSize = 256;
    std::vector<uint32_t> pages_;  // where a page starts in ids_; the first page is empty
    std::vector<TokenId> ids_;
  };
  struct WordHash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return WordCache::Hash(text); }
  };

  void IndexBytes(const BpeFile& file);
  void IndexCharacters();
  void IndexWords(bool ignore_merges);
  bool MergesAcross(std::string_view mark, const BpeFile& file) const;
  void EncodePiece(std::string_view piece, WordCache* cache, std::vector<TokenId>* ids) const;
  void AppendMerged(std::string_view word, std::vector<TokenId>* ids) const;
  void AppendCharacters(std::string_view word, std::vector<TokenId>* ids) const;
  bool AppendFallbackBytes(std::string_view character, std::vector<TokenId>* ids) const;
  void MergeShort(std::vector<TokenId>* symbols, size_t begin) const;
  void MergeLong(std::vector<TokenId>* symbols, size_t begin) const;

  std::vector<BpeFile::Entry> entries_;
  Alphabet alphabet_;
  std::optional<TokenId> unk_token_;
  bool fuse_unk_;
  bool byte_fallback_;
  MergeTable merges_;
  // The token of each single byte, or -1: of a byte-level vocabulary, or of the byte fallback.
  std::array<TokenId, 256> byte_ids_;
  CharacterTable character_ids_;
  // Words known to encode to one token, by their text: nearly every token is such a word, so most
  // words of a text need no merging.
  std::unordered_map<std::string, TokenId, WordHash, std::equal_to<>> whole_words_;
  // Words may be cut before a run of U+2581: no merge joins what stands before it to it.
  bool cuts_before_marks_ = false;
};

}  // namespace sluice
