#include "tokenizer/tokenizer.h"

#include <fstream>
#include <iterator>
#include <map>

#include "tokenizer/json_fields.h"
#include "tokenizer/utf8.h"

namespace sluice {

struct Tokenizer::Parts {
  Normalizer normalizer;
  PreTokenizer pretokenizer;
  Bpe model;
  PostProcessor post_processor;
  TokenDecoder decoder;
  std::vector<AddedToken> added_tokens;
};

// Takes a scratch that nobody uses, or a new one, and gives it back.
class Tokenizer::ScratchLease {
 public:
  explicit ScratchLease(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {
    const std::lock_guard lock(tokenizer.scratch_mutex_);
    auto& free = tokenizer.free_scratch_;
    if (free.empty()) {
      scratch_ = std::make_unique<Scratch>();
    } else {
      scratch_ = std::move(free.back());
      free.pop_back();
    }
  }
  ScratchLease(const ScratchLease&) = delete;
  ScratchLease& operator=(const ScratchLease&) = delete;
  ~ScratchLease() {
    // One text of many megabytes must not stay for good.
    constexpr size_t kKeptWords = 1 << 16;
    constexpr size_t kKeptBytes = 1 << 20;
    const WordList& words = scratch_->words;
    if (words.words.capacity() + words.next_words.capacity() > kKeptWords ||
        words.buffer.capacity() + words.next_buffer.capacity() > kKeptBytes) {
      return;
    }
    const std::lock_guard lock(tokenizer_.scratch_mutex_);
    tokenizer_.free_scratch_.push_back(std::move(scratch_));
  }
  Scratch* get() { return scratch_.get(); }

 private:
  const Tokenizer& tokenizer_;
  std::unique_ptr<Scratch> scratch_;
};

namespace {

// An added token may stand in the vocabulary too, with the same id and content.
void CheckAgainstVocabulary(const std::vector<AddedToken>& added, const Bpe& model) {
  std::unordered_map<std::string_view, const BpeFile::Entry*> by_content;
  std::unordered_map<TokenId, const BpeFile::Entry*> by_id;
  for (const BpeFile::Entry& entry : model.entries()) {
    by_content.emplace(entry.content, &entry);
    by_id.emplace(entry.id, &entry);
  }
  for (const AddedToken& token : added) {
    const auto same_content = by_content.find(token.content);
    const auto same_id = by_id.find(token.id);
    const BpeFile::Entry* a = same_content == by_content.end() ? nullptr : same_content->second;
    const BpeFile::Entry* b = same_id == by_id.end() ? nullptr : same_id->second;
    if (a != b) {
      throw DataLoss("added token \"" + token.content + "\" with id " + std::to_string(token.id) +
                     " contradicts model.vocab");
    }
  }
}

std::unique_ptr<AddedTokenFinder> MakeFinder(const std::vector<AddedToken>& added, bool normalized,
                                             const Normalizer& normalizer) {
  std::vector<const AddedToken*> tokens;
  std::vector<std::string> contents;
  for (const AddedToken& token : added) {
    if (token.normalized != normalized) continue;
    tokens.push_back(&token);
    contents.push_back(normalized ? normalizer.Normalize(token.content) : token.content);
  }
  return std::make_unique<AddedTokenFinder>(std::move(tokens), contents);
}

}  // namespace

std::unique_ptr<Tokenizer> Tokenizer::FromJson(std::string_view json) {
  boost::json::monotonic_resource memory;
  boost::system::error_code error;
  const boost::json::value root = boost::json::parse(json, error, &memory);
  if (error) throw DataLoss("it is not valid JSON: " + error.message());
  const auto& object = RequireObject(root, "the file");
  PreTokenizer pretokenizer = PreTokenizer::FromJson(FindField(object, "pre_tokenizer"));
  const auto alphabet =
      pretokenizer.is_byte_level() ? Bpe::Alphabet::kBytes : Bpe::Alphabet::kCharacters;
  Parts parts{.normalizer = Normalizer::FromJson(FindField(object, "normalizer")),
              .pretokenizer = std::move(pretokenizer),
              .model = Bpe(BpeFile::FromJson(FindField(object, "model")), alphabet),
              .post_processor = PostProcessor::FromJson(FindField(object, "post_processor")),
              .decoder = TokenDecoder::FromJson(FindField(object, "decoder")),
              .added_tokens = AddedTokensFromJson(FindField(object, "added_tokens"))};
  CheckAgainstVocabulary(parts.added_tokens, parts.model);
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(parts)));
}

std::unique_ptr<Tokenizer> Tokenizer::Load(const std::filesystem::path& path) {
  std::error_code ignored;
  std::ifstream file;
  if (std::filesystem::is_regular_file(path, ignored)) file.open(path, std::ios::binary);
  const std::string json((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file.is_open() || file.bad()) {
    throw Error(ErrorCode::kNotFound,
                "cannot read " + path.string() +
                    "; a Hugging Face checkpoint folder holds its tokenizer there");
  }
  try {
    return FromJson(json);
  } catch (const Error& error) {
    throw Error(error.code(), path.parent_path().string() + ": " + error.what());
  }
}

Tokenizer::Tokenizer(Parts parts)
    : normalizer_(std::move(parts.normalizer)),
      pretokenizer_(std::move(parts.pretokenizer)),
      model_(std::move(parts.model)),
      post_processor_(std::move(parts.post_processor)),
      decoder_(std::move(parts.decoder)),
      added_tokens_(std::move(parts.added_tokens)),
      raw_finder_(MakeFinder(added_tokens_, /*normalized=*/false, normalizer_)),
      normalized_finder_(MakeFinder(added_tokens_, /*normalized=*/true, normalizer_)) {
  IndexTokens();
  for (const std::vector<TokenId>* ids : {&post_processor_.prefix, &post_processor_.suffix}) {
    for (const TokenId id : *ids) {
      if (id < vocab_size()) continue;
      throw DataLoss("post_processor adds the id " + std::to_string(id) +
                     ", past the vocabulary's last, " + std::to_string(vocab_size() - 1));
    }
  }
}

void Tokenizer::IndexTokens() {
  std::map<TokenId, std::string_view> contents;
  for (const BpeFile::Entry& entry : model_.entries()) contents[entry.id] = entry.content;
  for (const AddedToken& token : added_tokens_) contents[token.id] = token.content;
  decoder_.IndexTokens(contents);
  special_.resize(static_cast<size_t>(decoder_.size()));
  for (const AddedToken& token : added_tokens_) {
    special_[static_cast<size_t>(token.id)] = token.special;
    id_of_added_.emplace(token.content, token.id);
  }
  // A token of text before the fallback for a byte that reads the same.
  id_of_text_.reserve(contents.size());
  for (const bool is_byte : {false, true}) {
    for (const auto& [id, content] : contents) {
      if (decoder_.IsByte(id) == is_byte) id_of_text_.emplace(TokenText(id), id);
    }
  }
}

std::vector<TokenId> Tokenizer::Encode(std::string_view utf8, bool parse_special) const {
  const std::string text = RepairUtf8(utf8);
  std::vector<TokenId> ids;
  ids.reserve(text.size() / 4 + 1);
  ScratchLease scratch(*this);
  for (const auto& piece : raw_finder_->Cut(text, parse_special)) {
    const bool at_start = piece.text.data() == text.data();
    if (piece.token != nullptr) {
      ids.push_back(piece.token->id);
    } else if (!normalizer_.is_identity()) {
      EncodeText(normalizer_.Normalize(piece.text), at_start, parse_special, scratch.get(), &ids);
    } else {
      EncodeText(piece.text, at_start, parse_special, scratch.get(), &ids);
    }
  }
  return ids;
}

void Tokenizer::EncodeText(std::string_view text, bool at_start, bool parse_special,
                           Scratch* scratch, std::vector<TokenId>* ids) const {
  for (const auto& piece : normalized_finder_->Cut(text, parse_special)) {
    if (piece.token != nullptr) {
      ids->push_back(piece.token->id);
      continue;
    }
    WordList& list = scratch->words;
    pretokenizer_.Split(piece.text, at_start && piece.text.data() == text.data(), &list);
    for (const TextSpan word : list.words) {
      model_.Encode(list.text.substr(word.begin, word.end - word.begin), &scratch->cache, ids);
    }
  }
}

std::vector<TokenId> Tokenizer::WrapInSpecial(std::vector<TokenId> ids) const {
  ids.insert(ids.begin(), post_processor_.prefix.begin(), post_processor_.prefix.end());
  ids.insert(ids.end(), post_processor_.suffix.begin(), post_processor_.suffix.end());
  return ids;
}

std::string Tokenizer::Decode(std::span<const TokenId> ids, bool skip_special) const {
  std::string text;
  TokenDecoder::Stream stream(decoder_);
  for (const TokenId id : ids) {
    if (!skip_special || !IsSpecial(id)) stream.Push(id, &text);
  }
  stream.Finish(&text);
  return text;
}

bool Tokenizer::IsSpecial(TokenId id) const {
  return id >= 0 && id < vocab_size() && special_[static_cast<size_t>(id)];
}

std::optional<TokenId> Tokenizer::IdOf(std::string_view content) const {
  if (const auto added = id_of_added_.find(content); added != id_of_added_.end()) {
    return added->second;
  }
  if (const auto text = id_of_text_.find(content); text != id_of_text_.end()) return text->second;
  return std::nullopt;
}

}  // namespace sluice
