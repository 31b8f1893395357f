#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "request/request.h"
#include "tokenizer/incremental_detokenizer.h"
#include "tokenizer/stop_matcher.h"
#include "tokenizer/tokenizer.h"

namespace sluice {

// A token with its score and its place in a choice's text.
struct ScoredToken {
  TokenId token = 0;
  std::optional<float> logprob;  // none for the first token of a prompt
  size_t text_offset = 0;        // code points of the text before it
  std::vector<TokenLogprob> top;
};

// What one report of the engine adds to a choice.
struct TextDelta {
  std::string text;
  std::vector<ScoredToken> tokens;  // empty unless logprobs were asked for
  std::optional<FinishReason> finish;
  std::string error;  // with kError
};

// Turns one sequence's tokens into text: decodes as they come, looks for stop strings, holds back
// what is not yet certain. The deltas concatenate to the same text however the engine's reports
// were cut. Not thread-safe.
class TextGeneration {
 public:
  // `tokenizer` must outlive it. `text_offset`: code points of echoed text before the first token.
  TextGeneration(const Tokenizer& tokenizer, const SamplingParams& params, bool skip_special,
                 size_t text_offset = 0);

  // Takes the next report; one that comes after the finish changes nothing.
  TextDelta Consume(const Output& output);

  bool finished() const { return finished_; }
  // A stop string ended the text, which the engine cannot know: end its sequence.
  bool stopped_by_text() const { return stops_.matched().has_value(); }
  // Tokens made, up to and including the one that completed a stop string or ended the sequence.
  int completion_tokens() const { return completion_tokens_; }

 private:
  void Take(const SampledToken& token, bool ends_sequence, TextDelta* delta);
  void Finish(const Output& output, TextDelta* delta);

  const Tokenizer& tokenizer_;
  const bool skip_special_;
  const bool include_stop_;
  const bool wants_logprobs_;
  const int min_tokens_;
  IncrementalDetokenizer detokenizer_;
  StopMatcher stops_;
  size_t text_offset_;
  int completion_tokens_ = 0;
  bool finished_ = false;
};

// Pairs a prompt's tokens with the engine's scores of those from the second on. `offset` is moved
// past the prompt's text.
std::vector<ScoredToken> DescribePrompt(const Tokenizer& tokenizer, std::span<const TokenId> prompt,
                                        const std::vector<SampledToken>& scores, size_t* offset);

// Code points that begin in the bytes: a character that several tokens share counts for its first.
size_t CountCodePoints(std::string_view bytes);

}  // namespace sluice
