#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "sampling/sample_types.h"
#include "sampling/weights.h"
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

  std::vector<float> values;         // [V] processed logits, then weights
  std::vector<int32_t> counts;       // [V] zero between calls
  std::vector<uint64_t> block_sums;  // masses of the weights, a block each
  std::vector<Candidate> candidates;
  std::vector<LogitEdit> edits;
};

// Draws the next token from `logits` ([V] f32, left as they are). The processors run in vLLM's
// order: logprobs are taken of the raw logits; then logit_bias, min_tokens, repetition, presence
// and frequency penalties, temperature, min_p, top_k, top_p; then one draw by inversion of the
// cumulative distribution in order of token ids. Weights are rounded to whole numbers before they
// are summed (weights.h), so the same logits give the same token on every device. Temperature below
// 1e-5 picks the largest processed logit. Ties, also at the border of top_k and top_p, go to the
// lower id.
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

// The parts of the above that a sampler on a device shares.

// What `context` makes of the logits before they are weights, into scratch.edits.
void EditsOf(const SampleContext& context, size_t vocab_size, SampleScratch& scratch);

// Throws Error(kDataLoss) where the largest logit is +infinity or one is NaN.
void CheckLargest(float largest, bool any_nan);
// Throws InternalError where it is -infinity.
void CheckDrawable(float largest);

// The bits that the context's token is drawn by.
uint64_t RandomBitsOf(const SampleContext& context);

// The result for token and logit `own`, when the raw logits have this maximum, e^(logits - largest)
// this mass, and `top`, which is sorted here, as the asked-for alternatives.
SampledToken ScoreOf(const SampleScratch::Candidate& own, int rank, float largest, uint64_t mass,
                     std::span<SampleScratch::Candidate> top);

}  // namespace sluice
