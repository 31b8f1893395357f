#include "tokenizer/bpe.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <optional>
#include <queue>
#include <unordered_set>

#include "base/check.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/json_fields.h"

namespace sluice {
namespace {

constexpr uint64_t kNoKey = std::numeric_limits<uint64_t>::max();
constexpr uint32_t kNoRank = std::numeric_limits<uint32_t>::max();
// Up to here scanning all pairs for the lowest rank beats a heap.
constexpr size_t kShortWord = 48;

using IdOfContent = std::unordered_map<std::string_view, TokenId>;

uint64_t PairKey(TokenId left, TokenId right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

std::vector<Bpe::Entry> ReadVocabulary(const boost::json::object& model) {
  const auto& vocab = RequireObject(RequireField(model, "vocab", "model"), "model.vocab");
  std::vector<Bpe::Entry> entries;
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

IdOfContent IndexContents(const std::vector<Bpe::Entry>& entries) {
  IdOfContent ids;
  ids.reserve(entries.size());
  for (const Bpe::Entry& entry : entries) ids.emplace(entry.content, entry.id);
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

TokenId RequireToken(const IdOfContent& ids, std::string_view content) {
  const auto found = ids.find(content);
  if (found != ids.end()) return found->second;
  throw DataLoss("a merge names \"" + std::string(content) + "\", which model.vocab lacks");
}

void RefuseUnlessEmpty(const boost::json::object& model, std::string_view key) {
  const auto* value = FindField(model, key);
  if (value == nullptr) return;
  if (!RequireString(*value, "model." + std::string(key)).empty()) {
    throw Unsupported("model." + std::string(key) + " is not supported in a byte-level vocabulary");
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
  if (BoolField(model, "byte_fallback", false, "model")) {
    throw Unsupported("model.byte_fallback is not supported");
  }
}

// An unknown token comes into play only where a byte has no token of its own.
void CheckUnknownToken(const boost::json::object& model, const IdOfContent& ids) {
  if (FindField(model, "unk_token") == nullptr) return;
  for (int byte = 0; byte < 256; ++byte) {
    if (ids.contains(ByteLevelSymbol(static_cast<unsigned char>(byte)))) continue;
    throw Unsupported("model.unk_token is not supported where the vocabulary lacks a byte (" +
                      std::to_string(byte) + ")");
  }
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

Bpe::MergeTable::MergeTable(size_t count) {
  const size_t size = std::bit_ceil(std::max<size_t>(count * 2, 16));
  slots_.assign(size, {.key = kNoKey, .merge = {}});
  shift_ = 64 - std::countr_zero(size);
}

size_t Bpe::MergeTable::SlotOf(uint64_t key) const {
  // Fibonacci hashing: the high bits of a product with 2^64 / golden ratio.
  size_t slot = (key * 0x9E3779B97F4A7C15u) >> shift_;
  while (slots_[slot].key != key && slots_[slot].key != kNoKey) {
    slot = (slot + 1) & (slots_.size() - 1);
  }
  return slot;
}

void Bpe::MergeTable::Set(TokenId left, TokenId right, Merge merge) {
  const uint64_t key = PairKey(left, right);
  slots_[SlotOf(key)] = {.key = key, .merge = merge};
}

const Bpe::Merge* Bpe::MergeTable::Find(TokenId left, TokenId right) const {
  const Slot& slot = slots_[SlotOf(PairKey(left, right))];
  return slot.key == kNoKey ? nullptr : &slot.merge;
}

Bpe Bpe::FromJson(const boost::json::value* json) {
  if (json == nullptr) throw DataLoss("there is no model");
  const auto& model = RequireObject(*json, "model");
  CheckOptions(model);
  std::vector<Entry> entries = ReadVocabulary(model);
  const IdOfContent ids = IndexContents(entries);
  CheckUnknownToken(model, ids);

  const auto& list = RequireArray(RequireField(model, "merges", "model"), "model.merges");
  MergeTable merges(list.size());
  uint32_t rank = 0;
  for (const auto& item : list) {
    const auto [left, right] = ReadMerge(item);
    const TokenId left_id = RequireToken(ids, left);
    const TokenId right_id = RequireToken(ids, right);
    const TokenId merged = RequireToken(ids, std::string(left) + std::string(right));
    // A pair that is listed twice keeps its last rank.
    merges.Set(left_id, right_id, {.rank = rank++, .merged = merged});
  }
  Bpe bpe(std::move(entries), std::move(merges));
  bpe.IndexWords(BoolField(model, "ignore_merges", false, "model"));
  return bpe;
}

void Bpe::IndexWords(bool ignore_merges) {
  std::vector<std::pair<std::string, TokenId>> words;
  byte_ids_.fill(-1);
  for (const Entry& entry : entries_) {
    std::optional<std::string> bytes = BytesOfSymbols(entry.content);
    if (!bytes || bytes->empty()) continue;
    if (bytes->size() == 1) byte_ids_[static_cast<unsigned char>(bytes->front())] = entry.id;
    words.emplace_back(*std::move(bytes), entry.id);
  }
  whole_words_.reserve(words.size());
  std::vector<TokenId> merged;
  for (auto& [bytes, id] : words) {
    merged.clear();
    if (!ignore_merges) AppendMerged(bytes, &merged);
    const bool is_whole = ignore_merges || (merged.size() == 1 && merged.front() == id);
    if (is_whole) whole_words_.emplace(std::move(bytes), id);
  }
}

void Bpe::Encode(std::string_view word, std::vector<TokenId>* ids) const {
  const auto whole = whole_words_.find(word);
  if (whole != whole_words_.end()) {
    ids->push_back(whole->second);
    return;
  }
  AppendMerged(word, ids);
}

void Bpe::AppendMerged(std::string_view word, std::vector<TokenId>* ids) const {
  const size_t begin = ids->size();
  for (const char c : word) {
    const TokenId id = byte_ids_[static_cast<unsigned char>(c)];
    if (id >= 0) ids->push_back(id);
  }
  if (ids->size() - begin <= kShortWord) {
    MergeShort(ids, begin);
  } else {
    MergeLong(ids, begin);
  }
}

void Bpe::MergeShort(std::vector<TokenId>* symbols, size_t begin) const {
  size_t size = symbols->size() - begin;
  TokenId* ids = symbols->data() + begin;
  // pairs[i] is the merge of ids[i] and ids[i + 1].
  std::array<Merge, kShortWord> pairs;
  const auto merge_at = [&](size_t i) {
    const Merge* merge = i + 1 < size ? merges_.Find(ids[i], ids[i + 1]) : nullptr;
    return merge != nullptr ? *merge : Merge{.rank = kNoRank, .merged = -1};
  };
  for (size_t i = 0; i < size; ++i) pairs[i] = merge_at(i);
  while (size > 1) {
    const auto best =
        std::min_element(pairs.begin(), pairs.begin() + static_cast<ptrdiff_t>(size),
                         [](const Merge& a, const Merge& b) { return a.rank < b.rank; });
    if (best->rank == kNoRank) break;
    const auto i = static_cast<size_t>(best - pairs.begin());
    ids[i] = best->merged;
    std::copy(ids + i + 2, ids + size, ids + i + 1);
    std::copy(pairs.begin() + static_cast<ptrdiff_t>(i + 2),
              pairs.begin() + static_cast<ptrdiff_t>(size),
              pairs.begin() + static_cast<ptrdiff_t>(i + 1));
    --size;
    pairs[i] = merge_at(i);
    if (i > 0) pairs[i - 1] = merge_at(i - 1);
  }
  symbols->resize(begin + size);
}

// A linked list of symbols and a heap of the merges that were possible when they were pushed.
void Bpe::MergeLong(std::vector<TokenId>* symbols, size_t begin) const {
  constexpr uint32_t kEnd = std::numeric_limits<uint32_t>::max();
  struct Symbol {
    TokenId id;  // -1 once merged into its left neighbour
    uint32_t previous;
    uint32_t next;
  };
  struct Candidate {
    uint32_t rank;
    uint32_t position;
    TokenId merged;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };
  const size_t size = symbols->size() - begin;
  if (size >= kEnd) {
    throw Error(ErrorCode::kInvalidArgument, "a word of over 4 GB cannot be tokenized");
  }
  std::vector<Symbol> list(size);
  for (uint32_t i = 0; i < size; ++i) {
    list[i] = {.id = (*symbols)[begin + i],
               .previous = i == 0 ? kEnd : i - 1,
               .next = i + 1 == size ? kEnd : i + 1};
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> heap;
  const auto merge_at = [&](uint32_t i) {
    const uint32_t next = list[i].next;
    return next == kEnd ? nullptr : merges_.Find(list[i].id, list[next].id);
  };
  const auto push = [&](uint32_t i) {
    if (const Merge* merge = merge_at(i)) heap.push({merge->rank, i, merge->merged});
  };
  for (uint32_t i = 0; i < size; ++i) push(i);
  while (!heap.empty()) {
    const Candidate top = heap.top();
    heap.pop();
    if (list[top.position].id < 0) continue;
    // What stands here now may be another pair than when the candidate was pushed.
    const Merge* merge = merge_at(top.position);
    if (merge == nullptr || merge->merged != top.merged) continue;
    Symbol& left = list[top.position];
    Symbol& right = list[left.next];
    left.id = top.merged;
    right.id = -1;
    left.next = right.next;
    if (left.next != kEnd) list[left.next].previous = top.position;
    push(top.position);
    if (left.previous != kEnd) push(left.previous);
  }
  symbols->resize(begin);
  for (const Symbol& symbol : list) {
    if (symbol.id >= 0) symbols->push_back(symbol.id);
  }
}

}  // namespace sluice
