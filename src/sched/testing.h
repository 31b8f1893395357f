#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "decode/decode_strategy.h"
#include "sched/scheduler.h"

namespace sluice::testing {

inline constexpr TokenId kEos = 99;

// Small enough that few tokens fill a step, and few steps the pages.
inline SchedulerConfig SmallConfig() {
  return {.max_num_seqs = 4,
          .max_num_batched_tokens = 8,
          .max_model_len = 32,
          .page_size = 4,
          .num_pages = 16,
          .eos_ids = {kEos}};
}

// A prompt of so many equal tokens.
inline Request MakeRequest(int prompt, SamplingParams sampling = {}) {
  Request request{.prompt = std::vector<TokenId>(static_cast<size_t>(prompt), 5),
                  .sampling = std::move(sampling)};
  return request;
}

// A result that answers every sample row with `token`.
inline StepResult Answer(const StepPlan& plan, TokenId token) {
  StepResult result{.step = plan.step, .slices = {}, .error = ""};
  for (const SequenceSlice& slice : plan.slices) {
    SliceResult answer{.sequence = slice.sequence, .samples = {}, .scores = {}};
    for (size_t i = 0; i < slice.sample_rows.size(); ++i)
      answer.samples.push_back({.token = token});
    for (const auto& row : slice.score_rows) answer.scores.push_back({.token = row.target});
    result.slices.push_back(answer);
  }
  return result;
}

// A scheduler by itself, whose steps are answered with a token.
class SchedulerTest : public ::testing::Test {
 protected:
  explicit SchedulerTest(const SchedulerConfig& config = SmallConfig())
      : scheduler_(config, *strategy_) {}

  std::vector<SequenceReport> Step(TokenId token = 7) {
    plan_ = scheduler_.Plan();
    return scheduler_.Commit(plan_, Answer(plan_, token));
  }

  std::unique_ptr<DecodeStrategy> strategy_ = MakeAutoregressive();
  Scheduler scheduler_;
  StepPlan plan_;
};

}  // namespace sluice::testing
