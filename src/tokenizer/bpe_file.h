#pragma once

#include <boost/json/fwd.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/token_id.h"

namespace sluice {

// Ids from here on are refused: a corrupt file could otherwise ask for any amount of memory. The
// largest published vocabularies have some 260,000 tokens.
inline constexpr TokenId kTokenIdEnd = 1 << 22;

// An id as JSON gives it. Throws Error(kDataLoss) unless it is an integer in [0, kTokenIdEnd).
TokenId TokenIdFromJson(const boost::json::value& json, std::string_view where);

// What the "model" of tokenizer.json says, checked.
struct BpeFile {
  struct Entry {
    TokenId id;
    std::string content;  // as in the file
  };
  // The pair `left`, `right` becomes `merged`; its rank is its place in the list.
  struct Merge {
    TokenId left;
    TokenId right;
    TokenId merged;
  };
  std::vector<Entry> entries;  // unique in id and content, in the file's order
  std::vector<Merge> merges;
  std::optional<TokenId> unk_token;  // stands for a character that the vocabulary lacks
  bool fuse_unk = false;             // one for a run of such characters
  bool byte_fallback = false;        // rather its bytes, tokens such as <0xE2>
  bool ignore_merges = false;        // a word that is a token is that token

  // Throws Error(kDataLoss) when the model contradicts itself and Error(kUnsupported) for options
  // that change ids in ways not written here.
  static BpeFile FromJson(const boost::json::value* json);
};

}  // namespace sluice
