#include "tokenizer/incremental_detokenizer.h"

#include "tokenizer/tokenizer.h"

namespace sluice {

IncrementalDetokenizer::IncrementalDetokenizer(const Tokenizer& tokenizer, bool skip_special)
    : tokenizer_(tokenizer), skip_special_(skip_special), stream_(tokenizer.decoder()) {}

std::string IncrementalDetokenizer::Push(TokenId id) {
  std::string text;
  if (!skip_special_ || !tokenizer_.IsSpecial(id)) stream_.Push(id, &text);
  return text;
}

std::string IncrementalDetokenizer::Finish() {
  std::string text;
  stream_.Finish(&text);
  return text;
}

}  // namespace sluice
