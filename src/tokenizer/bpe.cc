#include "tokenizer/bpe.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <optional>
#include <queue>

#include "base/error.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/utf8.h"

namespace sluice {
namespace {

constexpr uint64_t kNoKey = std::numeric_limits<uint64_t>::max();
constexpr uint32_t kNoRank = std::numeric_limits<uint32_t>::max();
// Up to here scanning all pairs for the lowest rank beats a heap.
constexpr size_t kShortWord = 48;

// How SentencePiece writes a space.
constexpr std::string_view kSpaceMark = "\u2581";

uint64_t PairKey(TokenId left, TokenId right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// The vocabulary's name of a byte in a fallback, "<0x0A>".
std::string FallbackName(int byte) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  std::string name = "<0x00>";
  name[3] = kDigits[static_cast<size_t>(byte / 16)];
  name[4] = kDigits[static_cast<size_t>(byte % 16)];
  return name;
}

}  // namespace

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

Bpe::CharacterTable::CharacterTable() : pages_(0x110000 / kPageSize), ids_(kPageSize, -1) {}

void Bpe::CharacterTable::Set(char32_t code_point, TokenId id) {
  uint32_t& page = pages_[code_point / kPageSize];
  if (page == 0) {
    page = static_cast<uint32_t>(ids_.size());
    ids_.resize(ids_.size() + kPageSize, -1);
  }
  ids_[page + code_point % kPageSize] = id;
}

TokenId Bpe::CharacterTable::Find(char32_t code_point) const {
  return ids_[pages_[code_point / kPageSize] + code_point % kPageSize];
}

Bpe::Bpe(BpeFile file, Alphabet alphabet)
    : alphabet_(alphabet),
      unk_token_(file.unk_token),
      fuse_unk_(file.fuse_unk),
      byte_fallback_(file.byte_fallback),
      merges_(file.merges.size()) {
  uint32_t rank = 0;
  // A pair that is listed twice keeps its last rank.
  for (const BpeFile::Merge& merge : file.merges) {
    merges_.Set(merge.left, merge.right, {.rank = rank++, .merged = merge.merged});
  }
  entries_ = std::move(file.entries);
  IndexBytes(file);
  if (alphabet_ == Alphabet::kCharacters) {
    IndexCharacters();
    // A character that is dropped would let what stands around it merge.
    const bool drops_none =
        unk_token_ ||
        (byte_fallback_ && std::ranges::all_of(byte_ids_, [](TokenId id) { return id >= 0; }));
    cuts_before_marks_ = drops_none && !file.ignore_merges && !MergesAcross(kSpaceMark, file);
  }
  IndexWords(file.ignore_merges);
}

void Bpe::IndexBytes(const BpeFile& file) {
  byte_ids_.fill(-1);
  std::unordered_map<std::string_view, TokenId> ids;
  ids.reserve(entries_.size());
  for (const BpeFile::Entry& entry : entries_) ids.emplace(entry.content, entry.id);
  for (int byte = 0; byte < 256; ++byte) {
    const bool is_byte_level = alphabet_ == Alphabet::kBytes;
    if (!is_byte_level && !byte_fallback_) continue;
    const auto found = ids.find(is_byte_level ? ByteLevelSymbol(static_cast<unsigned char>(byte))
                                              : FallbackName(byte));
    if (found != ids.end()) {
      byte_ids_[static_cast<size_t>(byte)] = found->second;
    } else if (is_byte_level && (file.unk_token || file.byte_fallback)) {
      throw Unsupported(
          "model.unk_token and model.byte_fallback are not supported where a byte-level vocabulary "
          "lacks a byte (" +
          std::to_string(byte) + ")");
    }
  }
}

void Bpe::IndexCharacters() {
  for (const BpeFile::Entry& entry : entries_) {
    size_t end = 0;
    if (entry.content.empty()) continue;
    const char32_t code_point = NextCodePoint(entry.content, &end);
    if (end == entry.content.size()) character_ids_.Set(code_point, entry.id);
  }
}

// Whether a merge may join something that does not end in `mark` to something that starts with it.
bool Bpe::MergesAcross(std::string_view mark, const BpeFile& file) const {
  size_t end = 0;
  if (character_ids_.Find(NextCodePoint(mark, &end)) < 0) return true;
  std::unordered_map<TokenId, std::string_view> contents;
  contents.reserve(entries_.size());
  for (const BpeFile::Entry& entry : entries_) contents.emplace(entry.id, entry.content);
  if (unk_token_ && contents[*unk_token_].ends_with(mark)) return true;
  return std::any_of(file.merges.begin(), file.merges.end(), [&](const BpeFile::Merge& merge) {
    return contents[merge.right].starts_with(mark) && !contents[merge.left].ends_with(mark);
  });
}

void Bpe::IndexWords(bool ignore_merges) {
  std::vector<std::pair<std::string, TokenId>> words;
  for (const BpeFile::Entry& entry : entries_) {
    if (alphabet_ == Alphabet::kCharacters) {
      if (!entry.content.empty()) words.emplace_back(entry.content, entry.id);
      continue;
    }
    std::optional<std::string> bytes = BytesOfSymbols(entry.content);
    if (bytes && !bytes->empty()) words.emplace_back(*std::move(bytes), entry.id);
  }
  whole_words_.reserve(words.size());
  std::vector<TokenId> merged;
  for (auto& [text, id] : words) {
    merged.clear();
    if (!ignore_merges) AppendMerged(text, &merged);
    const bool is_whole = ignore_merges || (merged.size() == 1 && merged.front() == id);
    if (is_whole) whole_words_.emplace(std::move(text), id);
  }
}

void Bpe::Encode(std::string_view word, WordCache* cache, std::vector<TokenId>* ids) const {
  if (!cuts_before_marks_) return EncodePiece(word, cache, ids);
  size_t begin = 0;
  while (begin < word.size()) {
    // A piece is a run of marks and what follows it.
    size_t end = begin;
    while (word.substr(end).starts_with(kSpaceMark)) end += kSpaceMark.size();
    end = std::min(word.find(kSpaceMark, end), word.size());
    EncodePiece(word.substr(begin, end - begin), cache, ids);
    begin = end;
  }
}

void Bpe::EncodePiece(std::string_view piece, WordCache* cache, std::vector<TokenId>* ids) const {
  const bool is_cached = WordCache::CanHold(piece);
  const uint64_t hash = is_cached ? WordCache::Hash(piece) : 0;
  if (is_cached && cache->Append(piece, hash, ids)) return;
  const size_t begin = ids->size();
  const auto whole = whole_words_.find(piece);
  if (whole != whole_words_.end()) {
    ids->push_back(whole->second);
  } else {
    AppendMerged(piece, ids);
  }
  if (is_cached) cache->Set(piece, hash, std::span<const TokenId>(*ids).subspan(begin));
}

void Bpe::AppendMerged(std::string_view word, std::vector<TokenId>* ids) const {
  const size_t begin = ids->size();
  if (alphabet_ == Alphabet::kCharacters) {
    AppendCharacters(word, ids);
  } else {
    for (const char c : word) {
      const TokenId id = byte_ids_[static_cast<unsigned char>(c)];
      if (id >= 0) ids->push_back(id);
    }
  }
  if (ids->size() - begin <= kShortWord) {
    MergeShort(ids, begin);
  } else {
    MergeLong(ids, begin);
  }
}

void Bpe::AppendCharacters(std::string_view word, std::vector<TokenId>* ids) const {
  // An unknown token waits for the next character that is known, so that a run can become one;
  // characters that fall back to bytes do not end the wait.
  bool unk_waits = false;
  for (size_t i = 0; i < word.size();) {
    const size_t begin = i;
    const TokenId id = character_ids_.Find(NextCodePoint(word, &i));
    if (id >= 0) {
      if (unk_waits) ids->push_back(*unk_token_);
      unk_waits = false;
      ids->push_back(id);
    } else if (!AppendFallbackBytes(word.substr(begin, i - begin), ids) && unk_token_) {
      if (unk_waits && !fuse_unk_) ids->push_back(*unk_token_);
      unk_waits = true;
    }
  }
  if (unk_waits) ids->push_back(*unk_token_);
}

bool Bpe::AppendFallbackBytes(std::string_view character, std::vector<TokenId>* ids) const {
  if (!byte_fallback_) return false;
  const auto id_of = [this](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
  if (!std::all_of(character.begin(), character.end(), [&](char c) { return id_of(c) >= 0; })) {
    return false;
  }
  for (const char byte : character) ids->push_back(id_of(byte));
  return true;
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
  const auto merge_at = [&](uint32_t i) {
    const uint32_t next = list[i].next;
    return next == kEnd ? nullptr : merges_.Find(list[i].id, list[next].id);
  };
  // A candidate is a rank and the position of a left symbol below it, so that the lowest comes
  // first.
  constexpr int kPositionBits = 32;
  const auto candidate = [](const Merge& merge, uint32_t position) {
    return static_cast<uint64_t>(merge.rank) << kPositionBits | position;
  };
  std::vector<uint64_t> candidates;
  candidates.reserve(size);
  for (uint32_t i = 0; i < size; ++i) {
    if (const Merge* merge = merge_at(i)) candidates.push_back(candidate(*merge, i));
  }
  std::priority_queue heap(std::greater<uint64_t>(), std::move(candidates));
  const auto push = [&](uint32_t i) {
    if (const Merge* merge = merge_at(i)) heap.push(candidate(*merge, i));
  };
  while (!heap.empty()) {
    const uint64_t top = heap.top();
    const auto position = static_cast<uint32_t>(top);
    heap.pop();
    if (list[position].id < 0) continue;
    // What stands here now may be another pair than when the candidate was pushed.
    const Merge* merge = merge_at(position);
    if (merge == nullptr || candidate(*merge, position) != top) continue;
    Symbol& left = list[position];
    Symbol& right = list[left.next];
    left.id = merge->merged;
    right.id = -1;
    left.next = right.next;
    if (left.next != kEnd) list[left.next].previous = position;
    push(position);
    if (left.previous != kEnd) push(left.previous);
  }
  symbols->resize(begin);
  for (const Symbol& symbol : list) {
    if (symbol.id >= 0) symbols->push_back(symbol.id);
  }
}

}  // namespace sluice
