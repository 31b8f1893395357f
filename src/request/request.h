#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "sampling/sample_types.h"
#include "sampling/sampling_params.h"
#include "tokenizer/token_id.h"

namespace sluice {

using RequestId = uint64_t;   // unique within an engine's life, never reused
using SequenceId = uint64_t;  // likewise

// What a door asks of the engine. Plain data.
struct Request {
  std::vector<TokenId> prompt;  // at least one token
  SamplingParams sampling;
};

enum class FinishReason {
  kStop,    // an end-of-sequence or stop token, or a stop string found by the door
  kLength,  // max_tokens or the model's context
  kAbort,   // the client went away or the server stopped
  kError,   // the step failed; see Output::error
};

// "stop", "length", "abort", "error".
const char* FinishReasonName(FinishReason reason);

// One report on one sequence of a request. Reports of a sequence come in order, from the engine's
// thread; the last one carries `finish`.
struct Output {
  int index = 0;                     // which of the request's n sequences
  std::vector<SampledToken> tokens;  // new since the last report; may be several under speculation
  // The prompt's tokens from the second on, when prompt_logprobs was asked for: in the first
  // report.
  std::vector<SampledToken> prompt;
  std::optional<FinishReason> finish;
  std::string error;  // with kError: what failed
};

}  // namespace sluice
