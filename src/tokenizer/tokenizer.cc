#include "tokenizer/tokenizer.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>

#include "base/check.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/utf8.h"

namespace sluice {

struct Tokenizer::Parts {
  std::unique_ptr<Normalizer> normalizer;
  std::unique_ptr<PreTokenizer> pretokenizer;
  Bpe model;
  std::vector<AddedToken> added_tokens;
  std::vector<TokenId> prefix;
  std::vector<TokenId> suffix;
};

namespace {

struct Wrapping {
  std::vector<TokenId> prefix;
  std::vector<TokenId> suffix;
};

// Appends the ids that special_tokens gives for one entry of the template.
void AppendTemplateIds(const boost::json::object& processor, const boost::json::value& piece,
                       std::vector<TokenId>* ids) {
  constexpr std::string_view kWhere = "post_processor TemplateProcessing";
  const auto& special = RequireObject(piece, "post_processor.single[].SpecialToken");
  const std::string_view name =
      RequireString(RequireField(special, "id", kWhere), "post_processor.single[].id");
  const auto& table = RequireObject(RequireField(processor, "special_tokens", kWhere),
                                    "post_processor.special_tokens");
  const auto& entry = RequireObject(RequireField(table, name, "post_processor.special_tokens"),
                                    "post_processor.special_tokens[]");
  const auto& list = RequireField(entry, "ids", "post_processor.special_tokens[]");
  for (const auto& id : RequireArray(list, "post_processor.special_tokens[].ids")) {
    ids->push_back(TokenIdFromJson(id, "post_processor.special_tokens[].ids[]"));
  }
}

void ReadTemplate(const boost::json::object& processor, Wrapping* wrapping) {
  constexpr std::string_view kWhere = "post_processor TemplateProcessing";
  bool seen_sequence = false;
  const auto& single = RequireField(processor, "single", kWhere);
  for (const auto& item : RequireArray(single, "post_processor.single")) {
    const auto& piece = RequireObject(item, "post_processor.single[]");
    if (const auto* special = FindField(piece, "SpecialToken")) {
      AppendTemplateIds(processor, *special, seen_sequence ? &wrapping->suffix : &wrapping->prefix);
      continue;
    }
    RequireField(piece, "Sequence", "post_processor.single[]");
    if (seen_sequence) throw Unsupported("post_processor template repeats its sequence");
    seen_sequence = true;
  }
  if (!seen_sequence) throw DataLoss("post_processor template leaves the sequence out");
}

void ReadPostProcessor(const boost::json::value* json, Wrapping* wrapping) {
  if (json == nullptr) return;
  const auto& object = RequireObject(*json, "post_processor");
  const std::string_view type = TypeOf(object, "post_processor");
  // ByteLevel moves offsets only.
  if (type == "ByteLevel") return;
  if (type == "TemplateProcessing") {
    if (!wrapping->prefix.empty() || !wrapping->suffix.empty()) {
      throw Unsupported("post_processor Sequence of two templates is not supported");
    }
    return ReadTemplate(object, wrapping);
  }
  if (type != "Sequence") {
    throw Unsupported("post_processor \"" + std::string(type) +
                      "\" is not supported; ByteLevel, TemplateProcessing and Sequence are");
  }
  const auto& list = RequireField(object, "processors", "post_processor");
  for (const auto& step : RequireArray(list, "post_processor.processors")) {
    ReadPostProcessor(&step, wrapping);
  }
}

void CheckDecoder(const boost::json::value* json) {
  if (json == nullptr) throw Unsupported("there is no decoder; ByteLevel is needed");
  const std::string_view type = TypeOf(RequireObject(*json, "decoder"), "decoder");
  if (type != "ByteLevel") {
    throw Unsupported("decoder \"" + std::string(type) + "\" is not supported; ByteLevel is");
  }
}

// An added token may stand in the vocabulary too, with the same id and content.
void CheckAgainstVocabulary(const std::vector<AddedToken>& added, const Bpe& model) {
  std::unordered_map<std::string_view, const Bpe::Entry*> by_content;
  std::unordered_map<TokenId, const Bpe::Entry*> by_id;
  for (const Bpe::Entry& entry : model.entries()) {
    by_content.emplace(entry.content, &entry);
    by_id.emplace(entry.id, &entry);
  }
  for (const AddedToken& token : added) {
    const auto same_content = by_content.find(token.content);
    const auto same_id = by_id.find(token.id);
    const Bpe::Entry* a = same_content == by_content.end() ? nullptr : same_content->second;
    const Bpe::Entry* b = same_id == by_id.end() ? nullptr : same_id->second;
    if (a != b) {
      throw DataLoss("added token \"" + token.content + "\" with id " + std::to_string(token.id) +
                     " contradicts model.vocab");
    }
  }
}

std::unique_ptr<AddedTokenFinder> MakeFinder(const std::vector<AddedToken>& added, bool normalized,
                                             const Normalizer* normalizer) {
  std::vector<const AddedToken*> tokens;
  std::vector<std::string> contents;
  for (const AddedToken& token : added) {
    if (token.normalized != normalized) continue;
    tokens.push_back(&token);
    contents.push_back(normalized && normalizer != nullptr ? normalizer->Normalize(token.content)
                                                           : token.content);
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
  Parts parts{.normalizer = NormalizerFromJson(FindField(object, "normalizer")),
              .pretokenizer = PreTokenizerFromJson(FindField(object, "pre_tokenizer")),
              .model = Bpe::FromJson(FindField(object, "model")),
              .added_tokens = AddedTokensFromJson(FindField(object, "added_tokens")),
              .prefix = {},
              .suffix = {}};
  CheckDecoder(FindField(object, "decoder"));
  CheckAgainstVocabulary(parts.added_tokens, parts.model);
  Wrapping wrapping;
  ReadPostProcessor(FindField(object, "post_processor"), &wrapping);
  parts.prefix = std::move(wrapping.prefix);
  parts.suffix = std::move(wrapping.suffix);
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(parts)));
}

std::unique_ptr<Tokenizer> Tokenizer::Load(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string json((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file.good() && !file.eof()) {
    throw Error(ErrorCode::kNotFound,
                "cannot read " + path.string() +
                    "; a Hugging Face checkpoint folder holds its tokenizer there");
  }
  return FromJson(json);
}

Tokenizer::Tokenizer(Parts parts)
    : normalizer_(std::move(parts.normalizer)),
      pretokenizer_(std::move(parts.pretokenizer)),
      model_(std::move(parts.model)),
      added_tokens_(std::move(parts.added_tokens)),
      raw_finder_(MakeFinder(added_tokens_, /*normalized=*/false, normalizer_.get())),
      normalized_finder_(MakeFinder(added_tokens_, /*normalized=*/true, normalizer_.get())),
      prefix_(std::move(parts.prefix)),
      suffix_(std::move(parts.suffix)) {
  IndexTexts();
  for (const std::vector<TokenId>* ids : {&prefix_, &suffix_}) {
    for (const TokenId id : *ids) {
      if (id < vocab_size()) continue;
      throw DataLoss("post_processor adds the id " + std::to_string(id) +
                     ", past the vocabulary's last, " + std::to_string(vocab_size() - 1));
    }
  }
}

void Tokenizer::IndexTexts() {
  std::map<TokenId, std::string_view> contents;
  for (const Bpe::Entry& entry : model_.entries()) contents[entry.id] = entry.content;
  for (const AddedToken& token : added_tokens_) contents[token.id] = token.content;
  const auto size = static_cast<size_t>(contents.rbegin()->first) + 1;
  text_ends_.reserve(size);
  for (const auto& [id, content] : contents) {
    text_ends_.resize(static_cast<size_t>(id), static_cast<uint32_t>(texts_.size()));
    texts_ += ByteLevelTokenText(content);
    text_ends_.push_back(static_cast<uint32_t>(texts_.size()));
  }
  special_.resize(size);
  for (const AddedToken& token : added_tokens_) {
    special_[static_cast<size_t>(token.id)] = token.special;
    id_of_added_.emplace(token.content, token.id);
  }
  id_of_text_.reserve(contents.size());
  for (const auto& [id, content] : contents) id_of_text_.emplace(TokenText(id), id);
}

std::vector<TokenId> Tokenizer::Encode(std::string_view utf8, bool parse_special) const {
  const std::string text = RepairUtf8(utf8);
  std::vector<TokenId> ids;
  ids.reserve(text.size() / 4 + 1);
  for (const auto& piece : raw_finder_->Cut(text, parse_special)) {
    if (piece.token != nullptr) {
      ids.push_back(piece.token->id);
    } else if (normalizer_ != nullptr) {
      EncodeText(normalizer_->Normalize(piece.text), parse_special, &ids);
    } else {
      EncodeText(piece.text, parse_special, &ids);
    }
  }
  return ids;
}

void Tokenizer::EncodeText(std::string_view text, bool parse_special,
                           std::vector<TokenId>* ids) const {
  for (const auto& piece : normalized_finder_->Cut(text, parse_special)) {
    if (piece.token != nullptr) {
      ids->push_back(piece.token->id);
    } else {
      pretokenizer_->Split(piece.text, [&](std::string_view word) { model_.Encode(word, ids); });
    }
  }
}

std::vector<TokenId> Tokenizer::WrapInSpecial(std::vector<TokenId> ids) const {
  ids.insert(ids.begin(), prefix_.begin(), prefix_.end());
  ids.insert(ids.end(), suffix_.begin(), suffix_.end());
  return ids;
}

std::string Tokenizer::Decode(std::span<const TokenId> ids, bool skip_special) const {
  std::string text;
  Utf8Repairer repairer;
  for (const TokenId id : ids) {
    if (skip_special && IsSpecial(id)) continue;
    repairer.Push(TokenText(id), &text);
  }
  repairer.Finish(&text);
  return text;
}

bool Tokenizer::IsSpecial(TokenId id) const {
  return id >= 0 && id < vocab_size() && special_[static_cast<size_t>(id)];
}

std::string_view Tokenizer::TokenText(TokenId id) const {
  if (id < 0 || id >= vocab_size()) return {};
  const auto index = static_cast<size_t>(id);
  const size_t begin = index == 0 ? 0 : text_ends_[index - 1];
  return std::string_view(texts_).substr(begin, text_ends_[index] - begin);
}

std::optional<TokenId> Tokenizer::IdOf(std::string_view content) const {
  if (const auto added = id_of_added_.find(content); added != id_of_added_.end()) {
    return added->second;
  }
  if (const auto text = id_of_text_.find(content); text != id_of_text_.end()) return text->second;
  return std::nullopt;
}

}  // namespace sluice
