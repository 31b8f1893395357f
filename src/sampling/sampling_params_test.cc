#include "sampling/sampling_params.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "base/error.h"

namespace sluice {
namespace {

constexpr int kVocab = 100;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

std::string ErrorOf(const SamplingParams& params) {
  try {
    Validate(params, kVocab);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "";
}

TEST(Validate, TakesTheDefaults) {
  EXPECT_EQ(ErrorOf({}), "");
}

TEST(Validate, TakesTheEdges) {
  SamplingParams params;
  params.temperature = 0;
  params.top_p = 1e-6f;
  params.top_k = 1 << 30;
  params.min_p = 1;
  params.repetition_penalty = 0.02f;
  params.presence_penalty = -2;
  params.frequency_penalty = 2;
  params.logit_bias = {{0, -100.0f}, {kVocab - 1, 100.0f}};
  params.n = kMaxSequences;
  params.max_tokens = 1;
  params.min_tokens = 1;
  params.stop_token_ids = {0, kVocab - 1};
  params.logprobs = 0;
  params.prompt_logprobs = kMaxLogprobs;
  EXPECT_EQ(ErrorOf(params), "");
}

TEST(Validate, NamesTheFieldOutOfRange) {
  const std::vector<std::pair<const char*, std::function<void(SamplingParams&)>>> cases = {
      {"temperature", [](SamplingParams& p) { p.temperature = -0.1f; }},
      {"temperature", [](SamplingParams& p) { p.temperature = kNan; }},
      {"temperature", [](SamplingParams& p) { p.temperature = kInf; }},
      {"top_p", [](SamplingParams& p) { p.top_p = 0; }},
      {"top_p", [](SamplingParams& p) { p.top_p = 1.01f; }},
      {"top_p", [](SamplingParams& p) { p.top_p = kNan; }},
      {"top_k", [](SamplingParams& p) { p.top_k = -1; }},
      {"min_p", [](SamplingParams& p) { p.min_p = 1.5f; }},
      {"repetition_penalty", [](SamplingParams& p) { p.repetition_penalty = 1e-30f; }},
      {"presence_penalty", [](SamplingParams& p) { p.presence_penalty = 2.5f; }},
      {"frequency_penalty", [](SamplingParams& p) { p.frequency_penalty = kNan; }},
      {"logit_bias",
       [](SamplingParams& p) {
         p.logit_bias = {{kVocab, 1.0f}};
       }},
      {"logit_bias",
       [](SamplingParams& p) {
         p.logit_bias = {{1, 101.0f}};
       }},
      {"n ", [](SamplingParams& p) { p.n = 0; }},
      {"n ", [](SamplingParams& p) { p.n = kMaxSequences + 1; }},
      {"max_tokens", [](SamplingParams& p) { p.max_tokens = 0; }},
      {"min_tokens", [](SamplingParams& p) { p.min_tokens = -1; }},
      {"min_tokens", [](SamplingParams& p) { p.min_tokens = p.max_tokens + 1; }},
      {"stop_token_ids", [](SamplingParams& p) { p.stop_token_ids = {-1}; }},
      {"stop",
       [](SamplingParams& p) {
         p.stop = {"a", ""};
       }},
      {"logprobs", [](SamplingParams& p) { p.logprobs = kMaxLogprobs + 1; }},
      {"prompt_logprobs", [](SamplingParams& p) { p.prompt_logprobs = -1; }},
  };
  for (const auto& [field, change] : cases) {
    SamplingParams params;
    change(params);
    EXPECT_THAT(ErrorOf(params), testing::StartsWith(field));
  }
}

TEST(NeedsHistory, OnlyWithAPenalty) {
  EXPECT_FALSE(NeedsHistory({}));
  EXPECT_TRUE(NeedsHistory({.repetition_penalty = 1.1f}));
  EXPECT_TRUE(NeedsHistory({.presence_penalty = 0.1f}));
  EXPECT_TRUE(NeedsHistory({.frequency_penalty = -0.1f}));
}

}  // namespace
}  // namespace sluice
