#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tokenizer/token_id.h"

namespace sluice {

// How the tokens of one request are chosen and when it ends. Meanings and defaults are those of
// OpenAI's API and of vLLM where OpenAI's has no such field.
struct SamplingParams {
  float temperature = 1.0f;         // 0 = greedy
  float top_p = 1.0f;               // (0, 1]
  int top_k = 0;                    // 0 = all
  float min_p = 0.0f;               // [0, 1], relative to the most likely token
  float repetition_penalty = 1.0f;  // [0.01, 100], over prompt and output
  float presence_penalty = 0.0f;    // [-2, 2], over output
  float frequency_penalty = 0.0f;   // [-2, 2], over output
  std::vector<std::pair<TokenId, float>> logit_bias;
  std::optional<uint64_t> seed;  // none: the engine draws one for the request
  int n = 1;                     // sequences to make from one prompt
  int max_tokens = 16;           // at least 1
  int min_tokens = 0;            // no end-of-sequence or stop before so many
  bool ignore_eos = false;
  std::vector<TokenId> stop_token_ids;
  std::vector<std::string> stop;  // matched on text, by whoever turns tokens into text
  bool include_stop_str_in_output = false;
  std::optional<int> logprobs;  // top alternatives reported with each token; 0 = its own only
  std::optional<int> prompt_logprobs;  // the same for the tokens of the prompt
};

// The most alternatives that logprobs and prompt_logprobs may ask for.
inline constexpr int kMaxLogprobs = 20;
// The most sequences that one request may ask for.
inline constexpr int kMaxSequences = 128;

// Throws Error(kInvalidArgument) that names the first field out of its range.
void Validate(const SamplingParams& params, int vocab_size);

// Whether the next token's choice depends on the tokens before it by more than the logits.
bool NeedsHistory(const SamplingParams& params);

}  // namespace sluice
