#include "tokenizer/incremental_detokenizer.h"

#include "tokenizer/tokenizer.h"

namespace sluice {

std::string IncrementalDetokenizer::Push(TokenId id) {
  std::string text;
  if (!skip_special_ || !tokenizer_.IsSpecial(id)) repairer_.Push(tokenizer_.TokenText(id), &text);
  return text;
}

std::string IncrementalDetokenizer::Finish() {
  std::string text;
  repairer_.Finish(&text);
  return text;
}

}  // namespace sluice
