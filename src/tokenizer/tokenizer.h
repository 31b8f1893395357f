#pragma once

#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/post_processor.h"
#include "tokenizer/pretokenizer.h"
#include "tokenizer/token_decoder.h"
#include "tokenizer/token_id.h"
#include "tokenizer/word_cache.h"

namespace sluice {

// Text to token ids and back, as a Hugging Face tokenizer.json describes it: BPE, of bytes or of
// characters, with added tokens. Gives the ids that the `tokenizers` library gives. Every const
// method is safe to call from any thread and gives the same whoever called before: what it keeps
// is scratch memory, one set for each thread that encodes at the same time.
class Tokenizer {
 public:
  // Throws Error(kDataLoss) for a file that is broken and Error(kUnsupported), naming the part, for
  // one that asks for what is not written here. "truncation" and "padding" are passed over: they
  // are defaults of the library's calls, which serving replaces.
  static std::unique_ptr<Tokenizer> FromJson(std::string_view json);
  // Also throws Error(kNotFound) when the file cannot be read.
  static std::unique_ptr<Tokenizer> Load(const std::filesystem::path& path);

  // Returns the ids of the text, invalid bytes taken as U+FFFD. With `parse_special` false the text
  // of a special token is text like any other. Adds no token of its own: see WrapInSpecial.
  std::vector<TokenId> Encode(std::string_view utf8, bool parse_special = true) const;

  // Returns the ids with those before and after that the file's post_processor adds to a single
  // sequence (a begin-of-text token, say).
  std::vector<TokenId> WrapInSpecial(std::vector<TokenId> ids) const;

  // Returns well-formed UTF-8, invalid bytes as U+FFFD. Ids of no token give no text.
  std::string Decode(std::span<const TokenId> ids, bool skip_special) const;

  // The highest id plus one; ids below it may be unused.
  TokenId vocab_size() const { return decoder_.size(); }
  bool IsSpecial(TokenId id) const;
  // Returns the bytes the token contributes to decoded text where it is not the first, not UTF-8 by
  // themselves. Empty for an id of no token.
  std::string_view TokenText(TokenId id) const { return decoder_.Text(id); }
  const TokenDecoder& decoder() const { return decoder_; }
  // Returns the id of the added token with this content, or else of the token with these bytes.
  std::optional<TokenId> IdOf(std::string_view content) const;

 private:
  struct Parts;
  // What encoding one text needs, kept for the next.
  struct Scratch {
    WordList words;
    WordCache cache;
  };
  class ScratchLease;

  explicit Tokenizer(Parts parts);
  void IndexTokens();
  void EncodeText(std::string_view text, bool at_start, bool parse_special, Scratch* scratch,
                  std::vector<TokenId>* ids) const;

  Normalizer normalizer_;
  PreTokenizer pretokenizer_;
  Bpe model_;
  PostProcessor post_processor_;
  TokenDecoder decoder_;
  std::vector<AddedToken> added_tokens_;
  // One finder for the text as it came, one for the normalised text between what that found.
  std::unique_ptr<AddedTokenFinder> raw_finder_;
  std::unique_ptr<AddedTokenFinder> normalized_finder_;

  std::vector<bool> special_;
  // Keys view the decoder's texts or added_tokens_.
  std::unordered_map<std::string_view, TokenId> id_of_text_;
  std::unordered_map<std::string_view, TokenId> id_of_added_;

  mutable std::mutex scratch_mutex_;
  mutable std::vector<std::unique_ptr<Scratch>> free_scratch_;
};

}  // namespace sluice
