#pragma once

#include <tuple>

#include "base/wire.h"
#include "request/step.h"

// How plans and results cross to another process (base/wire.h): the fields of everything in them.
namespace sluice {

constexpr StepMask LastOf(StepMask) {
  return StepMask::kTree;
}

inline auto Fields(TokenLogprob& value) {
  auto& [token, logprob] = value;
  return std::tie(token, logprob);
}

inline auto Fields(SampledToken& value) {
  auto& [token, logprob, rank, top] = value;
  return std::tie(token, logprob, rank, top);
}

inline auto Fields(SamplingParams& value) {
  auto& [temperature, top_p, top_k, min_p, repetition_penalty, presence_penalty, frequency_penalty,
         logit_bias, seed, n, max_tokens, min_tokens, ignore_eos, stop_token_ids, stop,
         include_stop_str_in_output, logprobs, prompt_logprobs] = value;
  return std::tie(temperature, top_p, top_k, min_p, repetition_penalty, presence_penalty,
                  frequency_penalty, logit_bias, seed, n, max_tokens, min_tokens, ignore_eos,
                  stop_token_ids, stop, include_stop_str_in_output, logprobs, prompt_logprobs);
}

inline auto Fields(SampleContext& value) {
  auto& [params, seed, prompt_length, history, generated, end_ids] = value;
  return std::tie(params, seed, prompt_length, history, generated, end_ids);
}

inline auto Fields(SequenceSlice::ScoreRow& value) {
  auto& [row, target] = value;
  return std::tie(row, target);
}

inline auto Fields(LayerGroup& value) {
  auto& [nth, of] = value;
  return std::tie(nth, of);
}

inline auto Fields(SequenceSlice& value) {
  auto& [sequence, tokens, positions, kv_positions, pages, kv_length, layers, mask, ancestors,
         sample_rows, sample, score_rows] = value;
  return std::tie(sequence, tokens, positions, kv_positions, pages, kv_length, layers, mask,
                  ancestors, sample_rows, sample, score_rows);
}

inline auto Fields(PageCopy& value) {
  auto& [from, to] = value;
  return std::tie(from, to);
}

inline auto Fields(StepPlan& value) {
  auto& [step, swap_out, swap_in, slices] = value;
  return std::tie(step, swap_out, swap_in, slices);
}

inline auto Fields(SliceResult& value) {
  auto& [sequence, samples, scores, error] = value;
  return std::tie(sequence, samples, scores, error);
}

inline auto Fields(StepResult& value) {
  auto& [step, slices, error, worker_lost] = value;
  return std::tie(step, slices, error, worker_lost);
}

}  // namespace sluice
