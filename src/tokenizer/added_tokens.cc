#include "tokenizer/added_tokens.h"

#include <algorithm>
#include <unordered_set>

#include "base/check.h"
#include "tokenizer/bpe.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/utf8.h"

namespace sluice {
namespace {

// Finding takes time in proportion to the longest content, for each byte of a text.
constexpr size_t kMaxContentSize = 1024;

AddedToken ReadAddedToken(const boost::json::object& json) {
  constexpr std::string_view kWhere = "added_tokens[]";
  AddedToken token;
  token.id = TokenIdFromJson(RequireField(json, "id", kWhere), "added_tokens[].id");
  token.content =
      std::string(RequireString(RequireField(json, "content", kWhere), "added_tokens[].content"));
  token.special = BoolField(json, "special", false, kWhere);
  token.single_word = BoolField(json, "single_word", false, kWhere);
  token.lstrip = BoolField(json, "lstrip", false, kWhere);
  token.rstrip = BoolField(json, "rstrip", false, kWhere);
  token.normalized = BoolField(json, "normalized", !token.special, kWhere);
  return token;
}

bool TouchesWord(std::string_view text, size_t begin, size_t end) {
  if (begin > 0) {
    size_t position = begin;
    if (IsWordCharacter(PreviousCodePoint(text, &position))) return true;
  }
  return end < text.size() && IsWordCharacter(NextCodePoint(text, &end));
}

// Stops at `first`.
size_t SkipSpaceLeft(std::string_view text, size_t position, size_t first) {
  while (position > first) {
    size_t previous = position;
    if (!IsWhiteSpace(PreviousCodePoint(text, &previous))) break;
    position = previous;
  }
  return position;
}

size_t SkipSpaceRight(std::string_view text, size_t position) {
  while (position < text.size()) {
    size_t next = position;
    if (!IsWhiteSpace(NextCodePoint(text, &next))) break;
    position = next;
  }
  return position;
}

}  // namespace

std::vector<AddedToken> AddedTokensFromJson(const boost::json::value* json) {
  std::vector<AddedToken> tokens;
  if (json == nullptr) return tokens;
  std::unordered_set<TokenId> ids;
  std::unordered_set<std::string> contents;
  for (const auto& item : RequireArray(*json, "added_tokens")) {
    AddedToken token = ReadAddedToken(RequireObject(item, "added_tokens[]"));
    if (token.content.empty()) continue;
    if (token.content.size() > kMaxContentSize) {
      throw Unsupported("added token " + std::to_string(token.id) + " has " +
                        std::to_string(token.content.size()) + " bytes; up to " +
                        std::to_string(kMaxContentSize) + " are supported");
    }
    if (!ids.insert(token.id).second || !contents.insert(token.content).second) {
      throw DataLoss("added_tokens lists \"" + token.content + "\" or its id " +
                     std::to_string(token.id) + " twice");
    }
    tokens.push_back(std::move(token));
  }
  return tokens;
}

AddedTokenFinder::AddedTokenFinder(std::vector<const AddedToken*> tokens,
                                   const std::vector<std::string>& contents)
    : tokens_(std::move(tokens)), nodes_(1) {
  SLUICE_CHECK_EQ(tokens_.size(), contents.size());
  for (size_t i = 0; i < tokens_.size(); ++i) {
    if (!contents[i].empty()) Insert(contents[i], tokens_[i]);
  }
}

void AddedTokenFinder::Insert(std::string_view content, const AddedToken* token) {
  starts_token_[static_cast<unsigned char>(content.front())] = true;
  uint32_t node = 0;
  for (const char byte : content) {
    uint32_t child = Child(node, byte);
    if (child == 0) {
      child = static_cast<uint32_t>(nodes_.size());
      nodes_.emplace_back();
      nodes_[node].children.emplace_back(byte, child);
    }
    node = child;
  }
  // Of two tokens that normalise to the same text the first is found.
  if (nodes_[node].token == nullptr) nodes_[node].token = token;
}

uint32_t AddedTokenFinder::Child(uint32_t node, char byte) const {
  for (const auto& [edge, child] : nodes_[node].children) {
    if (edge == byte) return child;
  }
  return 0;
}

AddedTokenFinder::Found AddedTokenFinder::LongestAt(std::string_view text, size_t position) const {
  Found found;
  uint32_t node = 0;
  for (size_t i = position; i < text.size(); ++i) {
    node = Child(node, text[i]);
    if (node == 0) break;
    if (nodes_[node].token != nullptr) found = {nodes_[node].token, i + 1 - position};
  }
  return found;
}

std::vector<AddedTokenFinder::Piece> AddedTokenFinder::Cut(std::string_view text,
                                                           bool find_special) const {
  std::vector<Piece> pieces;
  size_t done = 0;
  size_t position = 0;
  while (position < text.size()) {
    if (!starts_token_[static_cast<unsigned char>(text[position])]) {
      ++position;
      continue;
    }
    const Found found = LongestAt(text, position);
    if (found.token == nullptr) {
      ++position;
      continue;
    }
    size_t begin = position;
    size_t end = position + found.size;
    // The search goes on behind the content itself, whatever becomes of the find.
    position = end;
    if (found.token->special && !find_special) continue;
    if (found.token->single_word && TouchesWord(text, begin, end)) continue;
    if (found.token->lstrip) begin = SkipSpaceLeft(text, begin, std::min(begin, done));
    // Up to `done` an earlier token has taken all the white space.
    if (found.token->rstrip) end = SkipSpaceRight(text, std::max(end, done));
    if (begin > done) pieces.push_back({text.substr(done, begin - done), nullptr});
    pieces.push_back({text.substr(begin, end - begin), found.token});
    done = end;
  }
  if (done < text.size()) pieces.push_back({text.substr(done), nullptr});
  return pieces;
}

}  // namespace sluice
