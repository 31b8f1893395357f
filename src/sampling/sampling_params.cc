#include "sampling/sampling_params.h"

#include <fmt/format.h>

#include <cmath>

#include "base/error.h"

namespace sluice {

namespace {

template <class T>
void Require(bool holds, const char* field, const char* range, const T& value) {
  if (holds) return;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("{} must be {}, got {}", field, range, value));
}

bool InClosed(double value, double low, double high) {
  return value >= low && value <= high;
}

void RequireToken(const char* field, TokenId token, int vocab_size) {
  if (token >= 0 && token < vocab_size) return;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("{} names token {}, but the vocabulary has ids 0 to {}", field, token,
                          vocab_size - 1));
}

void ValidateLogprobs(const char* field, const std::optional<int>& logprobs) {
  if (!logprobs || InClosed(*logprobs, 0, kMaxLogprobs)) return;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("{} must be from 0 to {}, got {}", field, kMaxLogprobs, *logprobs));
}

void ValidateStops(const SamplingParams& params, int vocab_size) {
  for (TokenId token : params.stop_token_ids) RequireToken("stop_token_ids", token, vocab_size);
  for (const std::string& text : params.stop) {
    if (!text.empty()) continue;
    throw Error(ErrorCode::kInvalidArgument,
                "stop must hold strings of at least one character, got an empty one");
  }
}

}  // namespace

void Validate(const SamplingParams& params, int vocab_size) {
  Require(params.temperature >= 0 && std::isfinite(params.temperature), "temperature",
          "0 or greater", params.temperature);
  Require(params.top_p > 0 && params.top_p <= 1, "top_p", "greater than 0 and at most 1",
          params.top_p);
  Require(params.top_k >= 0, "top_k", "0 (all tokens) or greater", params.top_k);
  Require(InClosed(params.min_p, 0, 1), "min_p", "from 0 to 1", params.min_p);
  Require(InClosed(params.repetition_penalty, 0.01, 100), "repetition_penalty", "from 0.01 to 100",
          params.repetition_penalty);
  Require(InClosed(params.presence_penalty, -2, 2), "presence_penalty", "from -2 to 2",
          params.presence_penalty);
  Require(InClosed(params.frequency_penalty, -2, 2), "frequency_penalty", "from -2 to 2",
          params.frequency_penalty);
  for (const auto& [token, bias] : params.logit_bias) {
    RequireToken("logit_bias", token, vocab_size);
    Require(InClosed(bias, -100, 100), "logit_bias", "from -100 to 100", bias);
  }
  if (!InClosed(params.n, 1, kMaxSequences)) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("n must be from 1 to {}, got {}", kMaxSequences, params.n));
  }
  Require(params.max_tokens >= 1, "max_tokens", "at least 1", params.max_tokens);
  Require(params.min_tokens >= 0, "min_tokens", "0 or greater", params.min_tokens);
  if (params.min_tokens > params.max_tokens) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("min_tokens must be at most max_tokens ({}), got {}", params.max_tokens,
                            params.min_tokens));
  }
  ValidateStops(params, vocab_size);
  ValidateLogprobs("logprobs", params.logprobs);
  ValidateLogprobs("prompt_logprobs", params.prompt_logprobs);
}

bool NeedsHistory(const SamplingParams& params) {
  return params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f ||
         params.frequency_penalty != 0.0f;
}

}  // namespace sluice
