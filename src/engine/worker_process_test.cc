#include "engine/worker_process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <future>
#include <memory>
#include <stop_token>
#include <string>

#include "arch/testing.h"
#include "base/error.h"
#include "engine/model_runner.h"
#include "engine/testing_worker.h"

namespace sluice {
namespace {

using testing::HasSubstr;

std::unique_ptr<WorkerProcess> Start(TestingWorker worker) {
  return std::make_unique<WorkerProcess>(WorkerProcess::Options{
      .command = {SLUICE_TESTING_WORKER},
      .order = [worker](WorkerChannel& channel, const WorkerInfo* replaced) {
        channel.Send(TestingOrder{.worker = worker, .replaces = replaced != nullptr});
      }});
}

// What starting such a worker throws.
Error Refusal(TestingWorker worker) {
  try {
    Start(worker);
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "it started";
  return {ErrorCode::kInternal, ""};
}

// A step of sequences that each run `tokens` and sample after the last.
StepPlan Plan(uint64_t step, const std::vector<TokenId>& tokens, int sequences = 1) {
  StepPlan plan{.step = step};
  for (int i = 0; i < sequences; ++i) {
    const auto length = static_cast<int>(tokens.size());
    SequenceSlice slice = ContiguousSlice(i, tokens, 0, length, i, 16);
    slice.sample_rows = {length - 1};
    slice.sample.seed = i;
    slice.sample.params.logprobs = 3;
    plan.slices.push_back(slice);
  }
  return plan;
}

bool Exists(pid_t process) {
  return kill(process, 0) == 0;
}

std::string AwaitFailure(WorkerProcess& worker) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  std::string failure;
  while (failure.empty() && std::chrono::steady_clock::now() < deadline) {
    failure = worker.Failure();
  }
  return failure;
}

TEST(WorkerProcess, GivesWhatTheWorkerInThisProcessGives) {
  const ModelSpec spec = TinyMoeSpec();
  const DummySource source(ListTensors(spec), DType::kF32, 1);
  ModelRunner runner(spec, source, {.num_threads = 2, .num_pages = 8, .max_model_len = 64},
                     std::make_unique<ModelRouting>());
  InProcessWorker here(runner);
  const auto there = Start(TestingWorker::kModel);
  EXPECT_EQ(there->Info(), here.Info());
  for (uint64_t step = 1; step <= 4; ++step) {
    const StepPlan plan = Plan(step, {5, 9, static_cast<TokenId>(step)}, 3);
    const StepResult want = here.Execute(plan);
    const StepResult got = there->Execute(plan);
    EXPECT_EQ(got.step, step);
    EXPECT_EQ(got.error, "");
    ASSERT_EQ(got.slices.size(), 3u);
    for (int i = 0; i < 3; ++i) {
      const SampledToken& a = got.slices[i].samples.at(0);
      const SampledToken& b = want.slices[i].samples.at(0);
      EXPECT_EQ(a.token, b.token);
      EXPECT_EQ(a.logprob, b.logprob);
      ASSERT_EQ(a.top.size(), 3u);
      EXPECT_EQ(a.top[2].logprob, b.top[2].logprob);
    }
  }
}

TEST(WorkerProcess, AFailedStepLeavesIt) {
  const auto worker = Start(TestingWorker::kModel);
  const StepResult failed = worker->Execute(Plan(1, {5, 64}));  // outside the vocabulary
  EXPECT_THAT(failed.error, HasSubstr("step 1"));
  EXPECT_FALSE(failed.worker_lost);
  EXPECT_EQ(worker->Execute(Plan(2, {5, 9})).error, "");
  EXPECT_EQ(worker->Failure(), "");
}

TEST(WorkerProcess, WhatLoadingThrowsIsThrownHere) {
  const Error refused = Refusal(TestingWorker::kRefused);
  EXPECT_EQ(refused.code(), ErrorCode::kResourceExhausted);
  EXPECT_STREQ(refused.what(), "it does not fit: try another flag");
  const Error died = Refusal(TestingWorker::kDying);
  EXPECT_EQ(died.code(), ErrorCode::kInternal);
  EXPECT_THAT(died.what(), HasSubstr("exited with code 3 before it had loaded the model"));
}

TEST(WorkerProcess, SaysWhatProgramCannotBeStarted) {
  try {
    WorkerProcess worker({.command = {"/nonexistent/sluice"}, .order = {}});
    FAIL() << "it started";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("/nonexistent/sluice"));
  }
}

TEST(WorkerProcess, AKilledWorkerIsReportedAndStartsAgain) {
  const auto worker = Start(TestingWorker::kEcho);
  const pid_t first = worker->process();
  const StepResult result = worker->Execute(Plan(kKillingStep, {1}));
  EXPECT_TRUE(result.worker_lost);
  EXPECT_EQ(result.step, kKillingStep);
  EXPECT_THAT(result.error, HasSubstr("was ended by signal 9"));
  EXPECT_FALSE(Exists(first));
  EXPECT_TRUE(worker->Execute(Plan(2, {1})).worker_lost);
  EXPECT_NE(worker->Failure(), "");

  EXPECT_TRUE(worker->Restart({}));
  EXPECT_NE(worker->process(), first);
  EXPECT_EQ(worker->Failure(), "");
  EXPECT_EQ(worker->Execute(Plan(3, {7})).slices.at(0).samples.at(0).token, 8);
}

TEST(WorkerProcess, AWorkerThatLostItsDeviceStartsAgain) {
  const auto worker = Start(TestingWorker::kEcho);
  const StepResult result = worker->Execute(Plan(kLosingStep, {1}));
  EXPECT_TRUE(result.worker_lost);
  EXPECT_EQ(result.error, "the device is gone");
  EXPECT_TRUE(worker->Restart({}));
  EXPECT_EQ(worker->Execute(Plan(2, {7})).error, "");
}

TEST(WorkerProcess, ItsEndIsNoticedBetweenSteps) {
  const auto worker = Start(TestingWorker::kEcho);
  EXPECT_EQ(worker->Failure(), "");
  kill(worker->process(), SIGUSR1);  // which sanitizers leave alone
  EXPECT_THAT(AwaitFailure(*worker), HasSubstr("signal 10"));
}

TEST(WorkerProcess, IsNotReplacedByAnother) {
  const auto worker = Start(TestingWorker::kChanged);
  try {
    worker->Restart({});
    FAIL() << "took it";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("not as it was"));
  }
}

TEST(WorkerProcess, ARestartStopsWhenAsked) {
  const auto worker = Start(TestingWorker::kStalled);
  std::stop_source stop;
  auto restarted = std::async(std::launch::async, [&] { worker->Restart(stop.get_token()); });
  EXPECT_EQ(restarted.wait_for(std::chrono::milliseconds(200)), std::future_status::timeout);
  stop.request_stop();
  try {
    restarted.get();
    FAIL() << "it started";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnavailable);
  }
  EXPECT_EQ(worker->process(), 0);
}

TEST(WorkerProcess, EndsWithItsOwner) {
  auto worker = Start(TestingWorker::kEcho);
  const pid_t process = worker->process();
  EXPECT_TRUE(Exists(process));
  worker.reset();
  EXPECT_FALSE(Exists(process));
}

// Each sequence's token is the one that its slice of the step before samples.
StepPlan NextPlan(uint64_t step, int sequences) {
  StepPlan plan = Plan(step, {0}, sequences);
  for (int i = 0; i < sequences; ++i) plan.slices[i].tokens = {TokenDrawnBy(i)};
  return plan;
}

TEST(WorkerProcess, TakesAStepWhileOneIsUnderWay) {
  const auto worker = Start(TestingWorker::kEcho);
  ASSERT_EQ(worker->Info().max_steps, 2);
  worker->Submit(Plan(1, {7}, 3));
  for (uint64_t step = 1; step <= 100; ++step) {
    worker->Submit(NextPlan(step + 1, 3));
    const StepResult result = worker->Collect();
    EXPECT_EQ(result.step, step);
    ASSERT_EQ(result.slices.size(), 3u);
    EXPECT_EQ(result.slices[2].samples.at(0).token, static_cast<TokenId>(7 + step));
  }
  EXPECT_EQ(worker->Collect().slices.at(0).samples.at(0).token, 108);
}

TEST(WorkerProcess, IsReadyWhenAResultIsThere) {
  const auto worker = Start(TestingWorker::kEcho);
  worker->Submit(Plan(1, {7}));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!worker->Ready() && std::chrono::steady_clock::now() < deadline) {
  }
  EXPECT_TRUE(worker->Ready());
  EXPECT_EQ(worker->Collect().error, "");
}

TEST(WorkerProcess, IsLostWithEveryStepUnderWay) {
  const auto worker = Start(TestingWorker::kEcho);
  worker->Submit(Plan(1, {7}));
  worker->Submit(Plan(kKillingStep, {7}));
  EXPECT_EQ(worker->Collect().error, "");  // what was done before
  worker->Submit(Plan(3, {7}));
  const StepResult killed = worker->Collect();
  EXPECT_TRUE(killed.worker_lost);
  EXPECT_EQ(killed.step, kKillingStep);
  const StepResult behind = worker->Collect();
  EXPECT_TRUE(behind.worker_lost);
  EXPECT_EQ(behind.step, 3u);

  EXPECT_TRUE(worker->Restart({}));
  EXPECT_EQ(worker->Execute(Plan(4, {7})).slices.at(0).samples.at(0).token, 8);
}

TEST(WorkerProcess, APlanOfAnySizeCrosses) {
  const auto worker = Start(TestingWorker::kEcho);
  StepPlan plan = Plan(1, {1, 2, 3}, 200);
  for (SequenceSlice& slice : plan.slices) slice.sample.history.assign(40'000, 5);
  const StepResult result = worker->Execute(plan);
  ASSERT_EQ(result.error, "");
  EXPECT_EQ(result.slices.size(), 200u);
  EXPECT_EQ(worker->Execute(Plan(2, {7})).slices.at(0).samples.at(0).token, 8);
}

}  // namespace
}  // namespace sluice
