#include "tokenizer/bpe_file.h"

#include <unordered_map>
#include <unordered_set>

#include "tokenizer/json_fields.h"

namespace sluice {
namespace {

using IdOfContent = std::unordered_map<std::string_view, TokenId>;

std::vector<BpeFile::Entry> ReadVocabulary(const boost::json::object& model) {
  const auto& vocab = RequireObject(RequireField(model, "vocab", "model"), "model.vocab");
  std::vector<BpeFile::Entry> entries;
  entries.reserve(vocab.size());
  std::unordered_set<TokenId> ids;
  for (const auto& [key, value] : vocab) {
    const TokenId id = TokenIdFromJson(value, "an id of model.vocab");
    if (!ids.insert(id).second) {
      throw DataLoss("model.vocab gives id " + std::to_string(id) + " to two tokens");
    }
    entries.push_back({.id = id, .content = std::string(key)});
  }
  if (entries.empty()) throw DataLoss("model.vocab is empty");
  return entries;
}

IdOfContent IndexContents(const std::vector<BpeFile::Entry>& entries) {
  IdOfContent ids;
  ids.reserve(entries.size());
  for (const BpeFile::Entry& entry : entries) ids.emplace(entry.content, entry.id);
  return ids;
}

// The two sides of a merge, which a file writes as "a b" or as ["a", "b"].
std::pair<std::string_view, std::string_view> ReadMerge(const boost::json::value& json) {
  if (json.is_string()) {
    const std::string_view text = RequireString(json, "model.merges[]");
    const size_t space = text.find(' ');
    if (space == text.npos || text.find(' ', space + 1) != text.npos) {
      throw DataLoss("the merge \"" + std::string(text) + "\" is not two tokens");
    }
    return {text.substr(0, space), text.substr(space + 1)};
  }
  const auto& pair = RequireArray(json, "model.merges[]");
  if (pair.size() != 2) throw DataLoss("a merge has " + std::to_string(pair.size()) + " parts");
  return {RequireString(pair[0], "model.merges[][0]"), RequireString(pair[1], "model.merges[][1]")};
}

// The first line of the merges.txt that old files were made from.
bool IsVersionLine(const boost::json::value& json) {
  return json.is_string() && RequireString(json, "model.merges[]").starts_with("#version");
}

TokenId RequireToken(const IdOfContent& ids, std::string_view content) {
  const auto found = ids.find(content);
  if (found != ids.end()) return found->second;
  throw DataLoss("a merge names \"" + std::string(content) + "\", which model.vocab lacks");
}

std::vector<BpeFile::Merge> ReadMerges(const boost::json::object& model, const IdOfContent& ids) {
  const auto& list = RequireArray(RequireField(model, "merges", "model"), "model.merges");
  std::vector<BpeFile::Merge> merges;
  merges.reserve(list.size());
  std::string content;
  for (const auto& item : list) {
    if (IsVersionLine(item)) continue;
    const auto [left, right] = ReadMerge(item);
    content.assign(left).append(right);
    merges.push_back({.left = RequireToken(ids, left),
                      .right = RequireToken(ids, right),
                      .merged = RequireToken(ids, content)});
  }
  return merges;
}

void RefuseUnlessEmpty(const boost::json::object& model, std::string_view key) {
  const auto* value = FindField(model, key);
  if (value == nullptr) return;
  if (!RequireString(*value, "model." + std::string(key)).empty()) {
    throw Unsupported("model." + std::string(key) + " is not supported unless it is empty");
  }
}

void CheckOptions(const boost::json::object& model) {
  // GPT-2's own file leaves the type out.
  if (const auto* type = FindField(model, "type")) {
    const std::string_view name = RequireString(*type, "model.type");
    if (name != "BPE") {
      throw Unsupported("model \"" + std::string(name) + "\" is not supported; BPE is");
    }
  }
  if (const auto* dropout = FindField(model, "dropout")) {
    boost::system::error_code error;
    const double probability = dropout->to_number<double>(error);
    if (error) throw DataLoss("model.dropout must be a number");
    if (probability != 0) throw Unsupported("model.dropout is not supported");
  }
  RefuseUnlessEmpty(model, "continuing_subword_prefix");
  RefuseUnlessEmpty(model, "end_of_word_suffix");
}

}  // namespace

TokenId TokenIdFromJson(const boost::json::value& json, std::string_view where) {
  boost::system::error_code error;
  const int64_t id = json.is_number() ? json.to_number<int64_t>(error) : -1;
  if (error || id < 0 || id >= kTokenIdEnd) {
    throw DataLoss(std::string(where) + " must be an integer from 0 to " +
                   std::to_string(kTokenIdEnd - 1) + ", not " + boost::json::serialize(json));
  }
  return static_cast<TokenId>(id);
}

BpeFile BpeFile::FromJson(const boost::json::value* json) {
  if (json == nullptr) throw DataLoss("there is no model");
  const auto& model = RequireObject(*json, "model");
  CheckOptions(model);
  BpeFile file;
  file.entries = ReadVocabulary(model);
  const IdOfContent ids = IndexContents(file.entries);
  file.merges = ReadMerges(model, ids);
  if (const auto* unk = FindField(model, "unk_token")) {
    const std::string_view content = RequireString(*unk, "model.unk_token");
    const auto found = ids.find(content);
    if (found == ids.end()) {
      throw DataLoss("model.unk_token \"" + std::string(content) + "\" is not in model.vocab");
    }
    file.unk_token = found->second;
  }
  file.fuse_unk = BoolField(model, "fuse_unk", false, "model");
  file.byte_fallback = BoolField(model, "byte_fallback", false, "model");
  file.ignore_merges = BoolField(model, "ignore_merges", false, "model");
  return file;
}

}  // namespace sluice
