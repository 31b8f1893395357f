#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "arch/testing.h"
#include "engine/model_runner.h"
#include "engine/verify.h"

namespace sluice {
namespace {

class EngineTest : public ::testing::Test {
 protected:
  EngineTest() : spec_(TinyMoeSpec()), source_(ListTensors(spec_), DType::kF32, 1) {}

  std::unique_ptr<ModelRunner> MakeRunner(RunnerOptions options = {}) {
    options.num_threads = 2;
    options.num_pages = 8;
    options.max_model_len = 64;
    return std::make_unique<ModelRunner>(spec_, source_, options, std::make_unique<ModelRouting>());
  }

  static StepPlan OneSequence(std::vector<TokenId> tokens) {
    StepPlan plan{.step = 7};
    SequenceSlice& slice = plan.slices.emplace_back();
    slice.sequence = 42;
    for (int i = 0; i < static_cast<int>(tokens.size()); ++i) slice.positions.push_back(i);
    slice.kv_positions = slice.positions;
    slice.kv_length = static_cast<int>(tokens.size());
    slice.tokens = std::move(tokens);
    slice.pages = {3};
    slice.sample.params.temperature = 0;
    slice.sample_rows = {slice.kv_length - 1};
    return plan;
  }

  ModelSpec spec_;
  DummySource source_;
};

TEST_F(EngineTest, WorkerSamplesWhatTheRunnerComputes) {
  const auto runner = MakeRunner();
  const std::vector<TokenId> prompt = {5, 9, 2};
  const std::vector<TokenId> greedy = GreedyContinuation(*runner, prompt, 1);
  const StepResult result = InProcessWorker(*runner).Execute(OneSequence(prompt));
  EXPECT_EQ(result.step, 7u);
  EXPECT_EQ(result.error, "");
  ASSERT_EQ(result.slices.size(), 1u);
  EXPECT_EQ(result.slices[0].sequence, 42u);
  ASSERT_EQ(result.slices[0].samples.size(), 1u);
  EXPECT_EQ(result.slices[0].samples[0].token, greedy[0]);
}

TEST_F(EngineTest, WorkerScoresGivenTokens) {
  const auto runner = MakeRunner();
  StepPlan plan = OneSequence({5, 9, 2});
  plan.slices[0].sample.params.prompt_logprobs = 2;
  plan.slices[0].score_rows = {{.row = 0, .target = 9}, {.row = 1, .target = 2}};
  const StepResult result = InProcessWorker(*runner).Execute(plan);
  ASSERT_EQ(result.slices[0].scores.size(), 2u);
  const std::vector<TokenId> tokens = {5, 9, 2};
  const TextLoss loss = ScoreText(*runner, tokens, 8);
  EXPECT_EQ(loss.predicted_tokens, 2);
  EXPECT_NEAR(-(result.slices[0].scores[0].logprob + result.slices[0].scores[1].logprob) / 2,
              loss.mean_nll, 1e-5);
  EXPECT_EQ(result.slices[0].scores[0].top.size(), 2u);
}

TEST_F(EngineTest, AFailedStepIsReportedAndTheNextOneRuns) {
  const auto runner = MakeRunner();
  InProcessWorker worker(*runner);
  const StepResult failed = worker.Execute(OneSequence({5, 64}));  // outside the vocabulary
  EXPECT_NE(failed.error, "");
  EXPECT_TRUE(failed.slices.empty());
  EXPECT_EQ(worker.Execute(OneSequence({5, 9})).error, "");
}

TEST_F(EngineTest, ASequenceThatCannotBeSampledFailsAlone) {
  const auto runner = MakeRunner();
  StepPlan plan = OneSequence({5, 9, 2});
  plan.slices.push_back(plan.slices[0]);
  plan.slices[1].sequence = 43;
  plan.slices[1].pages = {4};
  plan.slices[1].sample.params.min_tokens = 1;
  for (TokenId id = 0; id < 64; ++id) plan.slices[1].sample.end_ids.push_back(id);  // all masked
  const StepResult result = InProcessWorker(*runner).Execute(plan);
  EXPECT_EQ(result.error, "");
  ASSERT_EQ(result.slices.size(), 2u);
  EXPECT_EQ(result.slices[0].error, "");
  EXPECT_NE(result.slices[1].error, "");
}

TEST_F(EngineTest, RefusesWhatCannotFitInMemoryBeforeLoading) {
  RunnerOptions options{.num_pages = std::numeric_limits<int>::max() / 2, .max_model_len = 64};
  try {
    ModelRunner runner(spec_, source_, options, std::make_unique<ModelRouting>());
    FAIL() << "loaded";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kResourceExhausted);
    EXPECT_NE(std::string(error.what()).find("available"), std::string::npos) << error.what();
  }
}

TEST_F(EngineTest, EstimateCountsTheExpertsThatAreHeld) {
  RunnerOptions options{.num_pages = 4};
  const MemoryNeeds all = EstimateMemory(spec_, options);
  options.expert_slots = 6;
  const MemoryNeeds some = EstimateMemory(spec_, options);
  const auto slot = static_cast<uint64_t>(ExpertLayoutOf(spec_, DType::kF32).SlotBytes());
  RunnerOptions wide = options;
  wide.max_step_rows = 1 << 20;
  EXPECT_GT(EstimateMemory(spec_, wide).scratch_bytes, 1000 * some.scratch_bytes);
  EXPECT_EQ(all.weight_bytes - some.weight_bytes, (16 - 6) * slot);
  EXPECT_EQ(all.kv_bytes, 4u * 16 * 2 * 2 * 16 * 4);  // pages, positions, k and v, layers, dims
}

TEST_F(EngineTest, LoadingEndsAtItsTotalWithAndWithoutSlots) {
  for (const int slots : {0, 6}) {
    int64_t last = 0;
    int64_t total = 0;
    const ModelRunner runner(
        spec_, source_,
        {.num_threads = 2, .num_pages = 4, .max_model_len = 64, .expert_slots = slots},
        std::make_unique<ModelRouting>(), [&](int64_t done, int64_t of) {
          EXPECT_GE(done, last);
          last = done;
          total = of;
        });
    EXPECT_GT(total, 0) << slots;
    EXPECT_EQ(last, total) << slots;
  }
}

TEST(CompareLogits, MeasuresDistances) {
  const std::vector<float> reference = {0, 3, 4, 0};
  EXPECT_EQ(CompareLogits(reference, reference, 2).relative_l2, 0);
  EXPECT_NEAR(CompareLogits(reference, reference, 2).mean_kl, 0, 1e-12);
  const std::vector<float> other = {0, 3, 4, 1};
  const LogitsDistance distance = CompareLogits(other, reference, 2);
  EXPECT_DOUBLE_EQ(distance.relative_l2, 0.2);
  EXPECT_DOUBLE_EQ(distance.max_abs, 1);
  EXPECT_GT(distance.mean_kl, 0);
  const std::vector<float> broken = {0, 3, std::nanf(""), 0};
  EXPECT_TRUE(std::isnan(CompareLogits(broken, reference, 2).max_abs));
  EXPECT_FALSE(CompareLogits(broken, reference, 2).relative_l2 <= 1e9);
}

}  // namespace
}  // namespace sluice
