#pragma once

#include <array>
#include <boost/json/fwd.hpp>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/token_id.h"

namespace sluice {

// A token that is found in the text as it stands, before the model sees it ("added_tokens").
struct AddedToken {
  TokenId id = 0;
  std::string content;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space to its left
  bool rstrip = false;       // takes the white space to its right
  bool normalized = false;   // is looked for in the normalised text
  bool special = false;      // is left out of decoded text and, on request, not looked for
};

// Reads the list; entries with empty content are passed over. Throws Error(kDataLoss) for wrong
// types and for ids or contents that come twice.
std::vector<AddedToken> AddedTokensFromJson(const boost::json::value* json);

// Finds added tokens in text: the leftmost, and of those the longest. Immutable; safe to call from
// any thread.
class AddedTokenFinder {
 public:
  struct Piece {
    std::string_view text;
    const AddedToken* token;  // null for text between tokens
  };

  // Looks for contents[i] to find tokens[i]. The tokens must outlive the finder.
  AddedTokenFinder(std::vector<const AddedToken*> tokens, const std::vector<std::string>& contents);

  // Cuts `text`, well-formed UTF-8, into tokens and non-empty texts between them. With
  // `find_special` false, special tokens are cut nowhere and stay text.
  std::vector<Piece> Cut(std::string_view text, bool find_special) const;

 private:
  // A node of the trie of contents.
  struct Node {
    std::vector<std::pair<char, uint32_t>> children;
    const AddedToken* token = nullptr;
  };
  struct Found {
    const AddedToken* token = nullptr;
    size_t size = 0;  // bytes
  };
  void Insert(std::string_view content, const AddedToken* token);
  uint32_t Child(uint32_t node, char byte) const;  // 0 for none
  Found LongestAt(std::string_view text, size_t position) const;

  std::vector<const AddedToken*> tokens_;
  std::vector<Node> nodes_;
  std::array<bool, 256> starts_token_ = {};
};

}  // namespace sluice
