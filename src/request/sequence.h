#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kv/page_allocator.h"
#include "request/request.h"

namespace sluice {

// One stream of tokens being made: prompt + committed output, and how much of it has keys and
// values in its pages. What a decode strategy drafts beyond the committed tokens lives in its
// StepDemand and is gone when the step is over. Owned by the scheduler, used by its thread only.
struct Sequence {
  SequenceId id = 0;
  RequestId request = 0;
  int index = 0;  // which of the request's n sequences
  SamplingParams params;
  uint64_t seed = 0;
  std::string client;
  int priority = 0;
  uint64_t turn = 0;  // when it got its first place in the batch, among others; 0 = not yet

  std::vector<TokenId> tokens;  // prompt, then committed output
  int prompt_length = 0;
  std::string cache_salt;
  int kv_length = 0;            // positions [0, kv_length) have valid keys and values
  PageList pages;               // covers at least kv_length positions
  size_t num_sealed = 0;        // the first of `pages`, which the prefix cache knows
  int rows_between_layers = 0;  // behind kv_length, that have been through some layer groups
  int cached_tokens = 0;        // of the prompt, that the prefix cache had when it first ran
  // While it waits: positions [0, swapped_length) have theirs in these pages of the host's, once
  // the step `swap_step` has run.
  int swapped_length = 0;
  std::vector<PageHandle> host_pages;
  uint64_t swap_step = 0;
  std::vector<SampledToken> prompt_scores;  // gathered while the prompt runs, until reported
  int num_scored = 0;  // prompt tokens scored so far; a recomputed prompt is not scored again
  std::optional<FinishReason> finish;

  int length() const { return static_cast<int>(tokens.size()); }
  int num_generated() const { return length() - prompt_length; }
};

}  // namespace sluice
