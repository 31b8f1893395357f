#pragma once

#include <cstdint>
#include <vector>

#include "sampling/sampling_params.h"
#include "tokenizer/token_id.h"

namespace sluice {

struct TokenLogprob {
  TokenId token = 0;
  float logprob = 0;
};

// A chosen (or, for a prompt, given) token. `logprob` is the natural logarithm of its probability
// under the model before bias, penalties, temperature and truncation. Logprob and rank are 0 where
// logprobs were not asked for.
struct SampledToken {
  TokenId token = 0;
  float logprob = 0;
  int rank = 0;                   // 1 = the most likely token
  std::vector<TokenLogprob> top;  // most likely first, as many as were asked for
};

// What the sampler needs beside the logits of one row. Plain data.
struct SampleContext {
  SamplingParams params;
  uint64_t seed = 0;      // resolved: never absent here
  int prompt_length = 0;  // history[0, prompt_length) is the prompt
  // Prompt and output up to and including the token of the row that is sampled after: prompt_length
  // + generated tokens. Empty where NeedsHistory(params) is false.
  std::vector<TokenId> history;
  int generated = 0;             // output tokens before the one that is drawn now
  std::vector<TokenId> end_ids;  // never drawn while generated < params.min_tokens

  // Moves on to the row after `token`, which follows this row in the same step.
  void Advance(TokenId token) {
    if (!history.empty()) history.push_back(token);
    ++generated;
  }
};

}  // namespace sluice
