#pragma once

#include <string>

#include "tokenizer/token_id.h"
#include "tokenizer/utf8.h"

namespace sluice {

class Tokenizer;

// Decodes one sequence as its tokens come. The pieces are well-formed UTF-8 and concatenate to what
// Tokenizer::Decode gives for all the ids. Not thread-safe; one per sequence.
class IncrementalDetokenizer {
 public:
  // `tokenizer` must outlive the detokenizer.
  IncrementalDetokenizer(const Tokenizer& tokenizer, bool skip_special)
      : tokenizer_(tokenizer), skip_special_(skip_special) {}

  // Returns the text that this token makes certain. A character cut by the token's end is held back
  // until it is whole.
  std::string Push(TokenId id);

  // Ends the sequence: returns U+FFFD for an unfinished character, or nothing.
  std::string Finish();

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  Utf8Repairer repairer_;
};

}  // namespace sluice
