#pragma once

#include <chrono>
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
  std::string client;                                // who asks: clients share a full batch evenly
  int priority = 0;                                  // a lower number goes first
  std::optional<std::chrono::milliseconds> timeout;  // from submission to the last token
  std::string cache_salt;  // cached keys and values are shared among requests of one salt
};

enum class FinishReason {
  kStop,     // an end-of-sequence or stop token, or a stop string found by the door
  kLength,   // max_tokens or the model's context
  kAbort,    // the client went away or the server stopped
  kError,    // the step failed; see Output::error
  kTimeout,  // the request's time was over; see Output::error
};

// "stop", "length", "abort", "error", "timeout".
const char* FinishReasonName(FinishReason reason);

// One report on one sequence of a request. Reports of a sequence come in order, from the engine's
// thread; the last one carries `finish`.
struct Output {
  int index = 0;                     // which of the request's n sequences
  std::vector<SampledToken> tokens;  // new since the last report; may be several under speculation
  // The prompt's tokens from the second on, when prompt_logprobs was asked for: in the first
  // report.
  std::vector<SampledToken> prompt;
  int cached_tokens = 0;  // of the prompt, found in the prefix cache: in the first report of tokens
  std::optional<FinishReason> finish;
  std::string error;  // with kError and kTimeout: what failed
};

}  // namespace sluice
