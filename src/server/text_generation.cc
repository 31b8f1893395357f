#include "server/text_generation.h"

#include <algorithm>

namespace sluice {

TextGeneration::TextGeneration(const Tokenizer& tokenizer, const SamplingParams& params,
                               bool skip_special, size_t text_offset)
    : tokenizer_(tokenizer),
      skip_special_(skip_special),
      include_stop_(params.include_stop_str_in_output),
      wants_logprobs_(params.logprobs.has_value()),
      min_tokens_(params.min_tokens),
      detokenizer_(tokenizer, skip_special),
      stops_(params.stop, params.include_stop_str_in_output),
      text_offset_(text_offset) {}

TextDelta TextGeneration::Consume(const Output& output) {
  TextDelta delta;
  if (finished_) return delta;
  for (size_t i = 0; i < output.tokens.size() && !stopped_by_text(); ++i) {
    const bool last = i + 1 == output.tokens.size();
    Take(output.tokens[i], last && output.finish == FinishReason::kStop, &delta);
  }
  if (stopped_by_text()) {
    finished_ = true;
    delta.finish = FinishReason::kStop;
  } else if (output.finish) {
    Finish(output, &delta);
  }
  return delta;
}

void TextGeneration::Take(const SampledToken& token, bool ends_sequence, TextDelta* delta) {
  ++completion_tokens_;
  if (wants_logprobs_) {
    delta->tokens.push_back({.token = token.token,
                             .logprob = token.logprob,
                             .text_offset = text_offset_,
                             .top = token.top});
  }
  // The token that says "end" is no part of what was said.
  if (ends_sequence && !include_stop_) return;
  if (!(skip_special_ && tokenizer_.IsSpecial(token.token))) {
    text_offset_ += CountCodePoints(tokenizer_.TokenText(token.token));
  }
  const std::string piece = detokenizer_.Push(token.token);
  // Text before min_tokens ends nothing, nor does it begin what would.
  delta->text += completion_tokens_ <= min_tokens_ ? piece : stops_.Push(piece);
}

void TextGeneration::Finish(const Output& output, TextDelta* delta) {
  finished_ = true;
  delta->finish = output.finish;
  delta->error = output.error;
  delta->text += stops_.Push(detokenizer_.Finish());
  if (!stopped_by_text()) delta->text += stops_.Finish();
  if (stopped_by_text()) delta->finish = FinishReason::kStop;
}

std::vector<ScoredToken> DescribePrompt(const Tokenizer& tokenizer, std::span<const TokenId> prompt,
                                        const std::vector<SampledToken>& scores, size_t* offset) {
  std::vector<ScoredToken> tokens;
  tokens.reserve(prompt.size());
  for (size_t i = 0; i < prompt.size(); ++i) {
    ScoredToken token{.token = prompt[i], .text_offset = *offset};
    if (i > 0 && i - 1 < scores.size()) {
      token.logprob = scores[i - 1].logprob;
      token.top = scores[i - 1].top;
    }
    *offset += CountCodePoints(tokenizer.TokenText(prompt[i]));
    tokens.push_back(std::move(token));
  }
  return tokens;
}

size_t CountCodePoints(std::string_view bytes) {
  return static_cast<size_t>(std::count_if(bytes.begin(), bytes.end(), [](char byte) {
    return (static_cast<unsigned char>(byte) & 0xC0) != 0x80;
  }));
}

}  // namespace sluice
