#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json/parse.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <string>
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

TEST_F(EngineTest, RunnersShareWeightsAndReadTheirExpertsAlone) {
  const std::vector<TokenId> prompt = {5, 9, 2};
  const std::vector<TokenId> expected = GreedyContinuation(*MakeRunner(), prompt, 20);
  ThreadPool pool(2);
  const ModelWeights shared(spec_, source_, DType::kF32, pool);
  const auto slot = ExpertLayoutOf(spec_, DType::kF32).SlotBytes();
  for (int round = 0; round < 2; ++round) {
    int64_t total = 0;
    ModelRunner runner(
        spec_, source_,
        {.num_threads = 2, .num_pages = 8, .max_model_len = 64, .shared_weights = &shared},
        std::make_unique<ModelRouting>(), [&](int64_t, int64_t of) { total = of; });
    EXPECT_EQ(&runner.weights(), &shared);
    EXPECT_EQ(total, 16 * slot);
    EXPECT_EQ(GreedyContinuation(runner, prompt, 20), expected);
  }
}

TEST_F(EngineTest, WeightsThatAreThereNeedNoMemory) {
  ThreadPool pool(2);
  const ModelWeights shared(spec_, source_, DType::kF32, pool);
  const RunnerOptions options{.num_pages = 4, .max_model_len = 64, .shared_weights = &shared};
  MemoryNeeds needs = EstimateMemory(spec_, options);
  EXPECT_EQ(needs.weight_bytes, EstimateMemory(spec_, {.num_pages = 4}).weight_bytes);
  EXPECT_EQ(needs.shared_bytes, shared.NumBytes());
  const uint64_t more_than_there_is = uint64_t{1} << 50;
  needs.weight_bytes += more_than_there_is;
  EXPECT_THROW(CheckFits(spec_, options, needs), Error);
  needs.shared_bytes += more_than_there_is;
  EXPECT_NO_THROW(CheckFits(spec_, options, needs));
}

TEST_F(EngineTest, WhatDoesNotFitIsToldWhatWould) {
  const RunnerOptions options{.page_size = 16, .num_pages = 1 << 30, .max_model_len = 64};
  const MemoryNeeds needs = EstimateMemory(spec_, options);
  try {
    CheckFits(spec_, options, needs);
    FAIL() << "fits";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kResourceExhausted);
    const std::string text = error.what();
    EXPECT_NE(text.find("one sequence of 64 positions would fit (--max-model-len)"),
              std::string::npos)
        << text;
    EXPECT_NE(text.find(" of 64 (--max-num-seqs"), std::string::npos) << text;
  }
  RunnerOptions wide = options;
  wide.num_pages = 1;
  wide.max_step_rows = std::numeric_limits<int>::max();
  try {
    CheckFits(spec_, wide, EstimateMemory(spec_, wide));
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("--max-num-batched-tokens"), std::string::npos);
  }
}

TEST_F(EngineTest, StepsTakeWhatWasPlannedOfScratch) {
  for (const int rows : {64, 256}) {
    RunnerOptions options{.max_step_rows = rows};
    const auto runner = MakeRunner(options);
    const std::vector<TokenId> tokens(60, 5);
    const std::vector<std::span<const TokenId>> sequences(2, tokens);
    ForwardSequences(*runner, sequences, {.chunk = rows / 2});
    EXPECT_LE(runner->Memory().arena_peak_bytes, runner->Memory().planned.arena_bytes) << rows;
  }
}

// The same worker on a CUDA device and on the host.
class EngineCudaTest : public EngineTest {
 protected:
  void SetUp() override {
    if (CudaDevices().empty()) GTEST_SKIP() << "there is no CUDA device";
    device_ = MakeRunner({.cuda = 0});
  }

  // A step in which `batch` sequences, at positions that begin at `position`, draw a token each.
  static StepPlan Decode(int batch, int position) {
    StepPlan plan;
    for (int b = 0; b < batch; ++b) {
      SequenceSlice& slice = plan.slices.emplace_back();
      slice.sequence = b;
      slice.tokens = {(7 * b + position) % 64};
      slice.positions = slice.kv_positions = {position};
      slice.kv_length = position + 1;
      slice.pages = {b % 8};
      slice.sample_rows = {0};
      slice.sample.seed = b;
      slice.sample.params.temperature = b % 3 == 0 ? 0.0f : 1.0f;
      if (b % 3 == 2) slice.sample.params.logprobs = 2;
    }
    return plan;
  }

  std::unique_ptr<ModelRunner> device_;
};

TEST_F(EngineCudaTest, DrawsTheHostsTokensInEveryBatch) {
  const auto host = MakeRunner();
  InProcessWorker on_host(*host);
  InProcessWorker on_device(*device_);
  for (int position = 0; position < 6; ++position) {
    for (const int batch : {1, 2, 3, 5, 8}) {
      const StepPlan plan = Decode(batch, position);
      const StepResult want = on_host.Execute(plan);
      const StepResult got = on_device.Execute(plan);
      ASSERT_EQ(got.error, "");
      for (int b = 0; b < batch; ++b) {
        const SampledToken& a = got.slices[b].samples.at(0);
        const SampledToken& e = want.slices[b].samples.at(0);
        EXPECT_EQ(a.token, e.token) << batch << " " << b << " " << position;
        EXPECT_NEAR(a.logprob, e.logprob, 1e-4);
        EXPECT_EQ(a.top.size(), e.top.size());
      }
    }
  }
}

TEST_F(EngineCudaTest, RecordsOneStepABatchBucket) {
  InProcessWorker worker(*device_);
  const auto run = [&](int batch, int position) {
    EXPECT_EQ(worker.Execute(Decode(batch, position)).error, "");
  };
  for (int i = 0; i < 3; ++i) {
    for (const int batch : {5, 6, 7, 8}) run(batch, 3);
  }
  EXPECT_EQ(device_->graphs().recorded(), 1);
  for (int i = 0; i < 2; ++i) {
    for (const int batch : {9, 12, 16}) run(batch, 3);
  }
  EXPECT_EQ(device_->graphs().recorded(), 2);
  for (const int batch : {8, 5, 16, 10}) run(batch, 3);
  EXPECT_EQ(device_->graphs().recorded(), 2);
}

TEST_F(EngineCudaTest, ALostSampleFailsAloneOnTheDevice) {
  StepPlan plan = Decode(2, 0);
  plan.slices[1].sample.params.min_tokens = 1;
  for (TokenId id = 0; id < 64; ++id) plan.slices[1].sample.end_ids.push_back(id);
  const StepResult result = InProcessWorker(*device_).Execute(plan);
  EXPECT_EQ(result.slices[0].error, "");
  EXPECT_NE(result.slices[1].error, "");
  EXPECT_FALSE(result.worker_lost);
}

// Sequences that each draw from what they drew before, in slices of another order each step.
class EngineAheadCudaTest : public EngineCudaTest {
 protected:
  static constexpr int kSteps = 12;

  // Step `step` of `batch` sequences; `before` is what they drew, or null for a step under way.
  static StepPlan Step(int batch, int step, const StepResult* before) {
    StepPlan plan = Decode(batch, step);
    plan.step = step;
    const auto slice_of = [&](int sequence, int at) { return (sequence + at) % batch; };
    for (int b = 0; b < batch && step > 0; ++b) {
      const int drawn_by = slice_of(b, step - 1);
      plan.slices[b].tokens = {before == nullptr ? TokenDrawnBy(drawn_by)
                                                 : before->slices[drawn_by].samples.at(0).token};
    }
    std::rotate(plan.slices.begin(), plan.slices.end() - step % batch, plan.slices.end());
    return plan;
  }

  std::vector<StepResult> InTurns(int batch) {
    InProcessWorker worker(*device_);
    std::vector<StepResult> results;
    for (int step = 0; step < kSteps; ++step) {
      results.push_back(worker.Execute(Step(batch, step, step == 0 ? nullptr : &results.back())));
    }
    return results;
  }

  std::vector<StepResult> Ahead(int batch) {
    InProcessWorker worker(*device_);
    EXPECT_EQ(worker.Info().max_steps, 2);
    std::vector<StepResult> results;
    worker.Submit(Step(batch, 0, nullptr));
    for (int step = 1; step <= kSteps; ++step) {
      if (step < kSteps) worker.Submit(Step(batch, step, nullptr));
      results.push_back(worker.Collect());
    }
    return results;
  }
};

TEST_F(EngineAheadCudaTest, StepsBehindEachOtherDrawWhatStepsInTurnsDo) {
  for (int repeat = 0; repeat < 3; ++repeat) {  // as they are, recorded and replayed
    for (const int batch : {1, 3, 8}) {
      const std::vector<StepResult> want = InTurns(batch);
      const std::vector<StepResult> got = Ahead(batch);
      for (int step = 0; step < kSteps; ++step) {
        SCOPED_TRACE(testing::Message() << "step " << step << " of " << batch << " sequences");
        EXPECT_EQ(got[step].step, static_cast<uint64_t>(step));
        ASSERT_EQ(got[step].error, "");
        for (int b = 0; b < batch; ++b) {
          EXPECT_EQ(got[step].slices[b].sequence, want[step].slices[b].sequence);
          const SampledToken& a = got[step].slices[b].samples.at(0);
          const SampledToken& e = want[step].slices[b].samples.at(0);
          EXPECT_EQ(a.token, e.token);
          EXPECT_EQ(a.logprob, e.logprob);
          EXPECT_EQ(a.top.size(), e.top.size());
        }
      }
    }
  }
}

// The host looks at logits of the first step before the second is queued.
TEST_F(EngineAheadCudaTest, AStepFollowsOneThatWasScored) {
  StepPlan first = OneSequence({5, 9, 2});
  first.slices[0].sample.params.prompt_logprobs = 1;
  first.slices[0].score_rows = {{.row = 0, .target = 9}, {.row = 1, .target = 2}};
  StepPlan second = OneSequence({5, 9, 2, 0});
  const auto only_last = [](SequenceSlice& slice, TokenId token) {
    slice.tokens = {token};
    slice.positions = slice.kv_positions = {3};
    slice.sample_rows = {0};
  };
  InProcessWorker worker(*device_);
  const StepResult scored = worker.Execute(first);
  only_last(second.slices[0], scored.slices.at(0).samples.at(0).token);
  const TokenId want = worker.Execute(second).slices.at(0).samples.at(0).token;

  only_last(second.slices[0], TokenDrawnBy(0));
  worker.Submit(first);
  worker.Submit(second);
  EXPECT_EQ(worker.Collect().slices.at(0).scores.size(), 2u);
  EXPECT_EQ(worker.Collect().slices.at(0).samples.at(0).token, want);
}

TEST_F(EngineAheadCudaTest, AStepThatFollowsAFailedOneRuns) {
  InProcessWorker worker(*device_);
  const TokenId want = worker.Execute(Decode(2, 0)).slices.at(1).samples.at(0).token;
  StepPlan broken = Decode(1, 0);
  broken.slices[0].positions.clear();
  worker.Submit(broken);
  StepPlan next = Decode(2, 0);
  next.slices[0].tokens = {TokenDrawnBy(0)};
  worker.Submit(next);
  EXPECT_NE(worker.Collect().error, "");
  const StepResult result = worker.Collect();
  EXPECT_EQ(result.error, "");
  EXPECT_EQ(result.slices.at(1).samples.at(0).token, want);
}

TEST_F(EngineCudaTest, TakesTheMemoryThatWasPlanned) {
  InProcessWorker worker(*device_);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(worker.Execute(Decode(8, i)).error, "");
  const MemoryUse use = device_->Memory();
  EXPECT_LE(use.arena_peak_bytes, use.planned.arena_bytes);
  EXPECT_LE(static_cast<double>(use.taken_bytes), 1.03 * static_cast<double>(use.planned.total()));
}

// A device's parts of a step follow each other within it, and it within the host's step.
TEST_F(EngineCudaTest, TheTimelineHasTheDevicesParts) {
  const std::filesystem::path file = testing::TempDir() + "/engine_timeline.json";
  constexpr int kSteps = 4;
  std::string device;
  {
    Timeline timeline(file);
    const auto runner = MakeRunner({.cuda = 0, .timeline = &timeline});
    device = runner->stream()->device().name;
    InProcessWorker worker(*runner);
    for (int step = 0; step < kSteps; ++step) {
      // The first is a prefill; of the others' shape one runs, one is recorded, one replayed.
      StepPlan plan =
          OneSequence(step == 0 ? std::vector<TokenId>{5, 9, 2} : std::vector<TokenId>{5});
      plan.step = step;
      EXPECT_EQ(worker.Execute(plan).error, "");
    }
  }
  std::ifstream in(file);
  const std::string text(std::istreambuf_iterator<char>(in), {});
  std::filesystem::remove(file);
  std::map<std::string, std::vector<std::string>> parts;
  int64_t track = -1;
  const boost::json::value events = boost::json::parse(text).at("traceEvents");
  for (const auto& event : events.as_array()) {
    const bool names = event.at("ph").as_string() == "M";
    if (names && event.at("args").at("name").as_string() == device) {
      track = event.at("tid").as_int64();
    }
  }
  for (const auto& event : events.as_array()) {
    if (event.at("ph").as_string() != "X" || event.at("tid").as_int64() != track) continue;
    EXPECT_GE(event.at("dur").to_number<double>(), 0.0);
    parts[std::to_string(event.at("args").at("step").as_int64())].emplace_back(
        event.at("name").as_string());
  }
  ASSERT_EQ(parts.size(), size_t{kSteps});
  EXPECT_EQ(parts["0"],
            (std::vector<std::string>{"step", "upload", "layers", "logits", "sampling"}));
  for (const char* step : {"1", "2", "3"}) {
    EXPECT_EQ(parts[step], (std::vector<std::string>{"step", "upload", "graph", "sampling"}));
  }
}

TEST(BatchBucket, AreFewAndHoldTheirRows) {
  EXPECT_EQ(BatchBucket(1), 1);
  EXPECT_EQ(BatchBucket(2), 2);
  EXPECT_EQ(BatchBucket(3), 4);
  EXPECT_EQ(BatchBucket(64), 64);
  EXPECT_EQ(BatchBucket(65), 80);
  EXPECT_EQ(BatchBucket(257), 320);
  for (int64_t rows = 1; rows < 1000; ++rows) {
    EXPECT_GE(BatchBucket(rows), rows);
    EXPECT_GE(BatchBucket(rows + 1), BatchBucket(rows));
    EXPECT_EQ(BatchBucket(BatchBucket(rows)), BatchBucket(rows));
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
