#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "sampling/sample_types.h"
#include "tokenizer/token_id.h"

namespace sluice {

// Working memory of the sampler, grown to the vocabulary once and used again. One thread at a time
// uses one scratch; rows of a step may be sampled on several threads, each with its own.
class SampleScratch {
 public:
  struct Candidate {
    float value = 0;
    TokenId token = 0;
  };

  std::vector<float> values;       // [V] processed logits, then weights
  std::vector<int32_t> counts;     // [V] zero between calls
  std::vector<double> block_sums;  // sums of the weights, a block each
  std::vector<Candidate> candidates;
};

// Draws the next token from `logits` ([V] f32, left as they are). The processors run in vLLM's
// order: logprobs are taken of the raw logits; then logit_bias, min_tokens, repetition, presence
// and frequency penalties, temperature, min_p, top_k, top_p; then one draw by inversion of the
// cumulative distribution in order of token ids. Temperature below 1e-5 picks the largest processed
// logit. Ties, also at the border of top_k and top_p, go to the lower id.
//
// The draw depends on (logits, params, history, seed, generated) alone: what else is in the batch,
// the number of threads and earlier draws have no part in it.
//
// Throws Error(kDataLoss) where the logits hold NaN or +infinity, InternalError where every token
// is masked.
SampledToken Sample(std::span<const float> logits, const SampleContext& context,
                    SampleScratch& scratch);

// The logprob, rank and `num_top` alternatives of a given token: for prompt_logprobs.
SampledToken ScoreToken(std::span<const float> logits, TokenId target, int num_top,
                        SampleScratch& scratch);

// Throws Error(kDataLoss) where the largest logit is +infinity or one is NaN.
void CheckLargest(float largest, bool any_nan);

}  // namespace sluice
