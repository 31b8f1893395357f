#pragma once

#include <string>

#include "tokenizer/token_decoder.h"
#include "tokenizer/token_id.h"

namespace sluice {

class Tokenizer;

// Decodes one sequence as its tokens come. The pieces are well-formed UTF-8 and concatenate to what
// Tokenizer::Decode gives for all the ids. Not thread-safe; one per sequence.
class IncrementalDetokenizer {
 public:
  // `tokenizer` must outlive the detokenizer.
  IncrementalDetokenizer(const Tokenizer& tokenizer, bool skip_special);

  // Returns the text that this token makes certain; see TokenDecoder::Stream::Push for what is held
  // back.
  std::string Push(TokenId id);

  // Ends the sequence: returns what was held back, U+FFFD for an unfinished character.
  std::string Finish();

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  TokenDecoder::Stream stream_;
};

}  // namespace sluice
