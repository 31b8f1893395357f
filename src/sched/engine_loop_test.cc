#include "sched/engine_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <set>
#include <stdexcept>
#include <stop_token>

#include "base/error.h"
#include "engine/deferring_worker.h"

namespace sluice {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;

constexpr int kVocab = 50;

// Answers each row with the token after its own. Fails steps while `fail` is set, for good where
// `lose` is, and holds them while `hold` is. Once lost, it starts again after `failing_restarts`
// tries, where it `can_restart`.
class CountingWorker : public DeferringWorker {
 public:
  explicit CountingWorker(int max_steps) : max_steps_(max_steps) {}

  WorkerInfo Info() const override {
    return {.vocab_size = kVocab,
            .max_model_len = 64,
            .page_size = 4,
            .num_pages = 32,
            .max_steps = max_steps_};
  }

  StepResult Run(const StepPlan& plan) override {
    while (hold) std::this_thread::yield();
    if (lose) {
      return {.step = plan.step, .slices = {}, .error = "the device is gone", .worker_lost = true};
    }
    if (fail) throw std::runtime_error("the worker broke");
    StepResult result{.step = plan.step};
    for (const SequenceSlice& slice : plan.slices) {
      SliceResult answer{.sequence = slice.sequence, .samples = {}, .scores = {}};
      if (!slice.sample_rows.empty()) seeds.insert(slice.sample.seed);
      for (int32_t row : slice.sample_rows) {
        answer.samples.push_back({.token = (slice.tokens[row] + 1) % kVocab});
      }
      result.slices.push_back(answer);
    }
    return result;
  }

  std::string Failure() override { return lose ? "the device is gone" : ""; }

  bool Restart(const std::stop_token& stop) override {
    while (stall && !stop.stop_requested()) std::this_thread::yield();
    ++restarts;
    if (failing_restarts-- > 0) throw std::runtime_error("the device does not come back");
    if (can_restart) lose = false;
    return can_restart;
  }

  std::atomic<bool> fail = false;
  std::atomic<bool> lose = false;
  std::atomic<bool> hold = false;
  std::atomic<bool> stall = false;  // a restart, until the loop is to stop
  std::atomic<bool> can_restart = false;
  std::atomic<int> failing_restarts = 0;
  std::atomic<int> restarts = 0;
  std::set<uint64_t> seeds;  // of sampled slices; read when the loop is done

 private:
  const int max_steps_;
};

// Gathers a request's reports and waits for the last.
class Sink {
 public:
  explicit Sink(int sequences = 1) : unfinished_(sequences) {}

  OutputCallback Callback() {
    return [this](Output output) {
      const std::lock_guard lock(mutex_);
      for (const SampledToken& sampled : output.tokens) tokens_.push_back(sampled.token);
      error_ = output.error;
      if (!output.finish) return;
      finishes_.push_back(*output.finish);
      if (--unfinished_ == 0) done_.notify_all();
    };
  }

  void Wait() {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return unfinished_ == 0; });
  }

  std::vector<TokenId> tokens() const { return tokens_; }
  std::vector<FinishReason> finishes() const { return finishes_; }
  std::string error() const { return error_; }

 private:
  std::mutex mutex_;
  std::condition_variable done_;
  int unfinished_;
  std::vector<TokenId> tokens_;
  std::vector<FinishReason> finishes_;
  std::string error_;
};

// Runs what is posted at once.
struct CountingExecutor : Executor {
  void Post(std::function<void()> function) override {
    ++posts;
    function();
  }
  std::atomic<int> posts = 0;
};

Request Ask(std::vector<TokenId> prompt, int max_tokens) {
  Request request{.prompt = std::move(prompt), .sampling = {}};
  request.sampling.max_tokens = max_tokens;
  return request;
}

// The value of a counter or gauge, or how often a histogram was fed. With `reason`, of the metric
// that has it as its finished_reason.
double ValueOf(const Metrics& metrics, const std::string& name, const std::string& reason = "") {
  for (const auto& family : metrics.Collect()) {
    if (family.name != name) continue;
    for (const auto& metric : family.metric) {
      const bool matches =
          std::any_of(metric.label.begin(), metric.label.end(),
                      [&](const auto& label) { return reason.empty() || label.value == reason; });
      if (!matches) continue;
      return metric.counter.value + metric.gauge.value +
             static_cast<double>(metric.histogram.sample_count);
    }
  }
  ADD_FAILURE() << "no metric " << name;
  return -1;
}

// What a submission is refused with.
std::string Refusal(EngineLoop& loop) {
  try {
    loop.Submit(Ask({1}, 4), [](const Output&) { ADD_FAILURE() << "was run"; });
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnavailable);
    return error.what();
  }
  ADD_FAILURE() << "was taken";
  return "";
}

// Waits until a lost worker runs again or is given up.
void AwaitSettled(const EngineLoop& loop) {
  while (loop.Stats().restarting) std::this_thread::yield();
}

// Waits until the engine's sequences are so many.
void AwaitCounts(const EngineLoop& loop, int running, int waiting) {
  while (loop.Stats().running != running || loop.Stats().waiting != waiting) {
    std::this_thread::yield();
  }
}

// With workers that take so many steps at once.
class EngineLoopTest : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(StepsUnderWay, EngineLoopTest, testing::Values(1, 2));

TEST_P(EngineLoopTest, GeneratesUntilMaxTokens) {
  CountingWorker worker(GetParam());
  EngineLoop loop(worker, MakeAutoregressive(), {});
  Sink sink;
  loop.Submit(Ask({1, 2, 3}, 4), sink.Callback());
  sink.Wait();
  EXPECT_THAT(sink.tokens(), ElementsAre(4, 5, 6, 7));
  EXPECT_THAT(sink.finishes(), ElementsAre(FinishReason::kLength));
  const EngineStats stats = loop.Stats();
  EXPECT_EQ(stats.prompt_tokens, 3u);
  EXPECT_EQ(stats.generation_tokens, 4u);
  EXPECT_EQ(stats.pages_total, 32);
  EXPECT_EQ(stats.pages_used, 0);
  EXPECT_EQ(stats.steps, 4u);
}

TEST_P(EngineLoopTest, RefusesBadRequestsAtTheDoor) {
  CountingWorker worker(GetParam());
  EngineLoop loop(worker, MakeAutoregressive(), {});
  const auto never = [](const Output&) { ADD_FAILURE() << "reported a refused request"; };
  EXPECT_THROW(loop.Submit(Ask({}, 4), never), Error);
  EXPECT_THROW(loop.Submit(Ask({kVocab}, 4), never), Error);
  EXPECT_THROW(loop.Submit(Ask({1}, 0), never), Error);
  EXPECT_THROW(loop.Submit(Ask(std::vector<TokenId>(64, 1), 4), never), Error);
}

TEST_P(EngineLoopTest, WhatASequenceRunsPastItsEndIsDropped) {
  CountingWorker worker(GetParam());
  EngineLoop loop(worker, MakeAutoregressive(), {.eos_ids = {9}});
  Sink ended;
  Sink stopped;
  Request stops = Ask({20}, 40);
  stops.sampling.stop_token_ids = {23};
  loop.Submit(Ask({1}, 40), ended.Callback());
  loop.Submit(stops, stopped.Callback());
  ended.Wait();
  stopped.Wait();
  EXPECT_THAT(ended.tokens(), ElementsAre(2, 3, 4, 5, 6, 7, 8, 9));
  EXPECT_THAT(stopped.tokens(), ElementsAre(21, 22, 23));
  EXPECT_THAT(ended.finishes(), ElementsAre(FinishReason::kStop));
  EXPECT_EQ(loop.Stats().pages_used, 0);
  EXPECT_EQ(loop.Stats().generation_tokens, 11u);
  Sink after;  // whatever ran too long is out of the way
  loop.Submit(Ask({30}, 2), after.Callback());
  after.Wait();
  EXPECT_THAT(after.tokens(), ElementsAre(31, 32));
}

TEST_P(EngineLoopTest, AFailedStepEndsItsRequestsAndTheLoopGoesOn) {
  CountingWorker worker(GetParam());
  EngineLoop loop(worker, MakeAutoregressive(), {});
  worker.fail = true;
  Sink failed;
  loop.Submit(Ask({1}, 4), failed.Callback());
  failed.Wait();
  EXPECT_THAT(failed.finishes(), ElementsAre(FinishReason::kError));
  EXPECT_EQ(failed.error(), "the worker broke");
  worker.fail = false;
  Sink fine;
  loop.Submit(Ask({1}, 2), fine.Callback());
  fine.Wait();
  EXPECT_THAT(fine.tokens(), ElementsAre(2, 3));
}

TEST_P(EngineLoopTest, ARequestEndsWhenItsTimeIsOver) {
  CountingWorker worker(GetParam());
  worker.hold = true;
  EngineLoop loop(worker, MakeAutoregressive(),
                  {.max_num_seqs = 1, .request_timeout = std::chrono::seconds(60)});
  Sink patient;
  loop.Submit(Ask({1}, 4), patient.Callback());
  Sink waiting;
  Request request = Ask({5}, 4);
  request.timeout = std::chrono::milliseconds(20);
  loop.Submit(request, waiting.Callback());
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  worker.hold = false;
  patient.Wait();
  waiting.Wait();
  EXPECT_THAT(patient.finishes(), ElementsAre(FinishReason::kLength));
  EXPECT_THAT(waiting.finishes(), ElementsAre(FinishReason::kTimeout));
  EXPECT_EQ(waiting.error(),
            "the request took longer than its timeout of 0.02 s, in which it got 0 tokens");
  EXPECT_EQ(loop.Stats().pages_used, 0);
}

TEST_P(EngineLoopTest, WhatWaitsTooLongEndsAndWhatHasBegunDoesNot) {
  CountingWorker worker(GetParam());
  worker.hold = true;
  EngineLoop loop(worker, MakeAutoregressive(),
                  {.max_num_seqs = 1, .queue_timeout = std::chrono::milliseconds(20)});
  Sink running;
  Sink waiting;
  loop.Submit(Ask({1}, 4), running.Callback());
  AwaitCounts(loop, 1, 0);
  loop.Submit(Ask({5}, 4), waiting.Callback());
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  worker.hold = false;
  running.Wait();
  waiting.Wait();
  EXPECT_THAT(running.finishes(), ElementsAre(FinishReason::kLength));
  EXPECT_THAT(waiting.finishes(), ElementsAre(FinishReason::kTimeout));
  EXPECT_THAT(waiting.error(), HasSubstr("has waited for 0.02 s"));
  EXPECT_EQ(loop.Stats().waiting_tokens, 0);
}

TEST_P(EngineLoopTest, TheLoopsOwnTimeoutBoundsThatOfARequest) {
  CountingWorker worker(GetParam());
  worker.hold = true;
  EngineLoop loop(worker, MakeAutoregressive(), {.request_timeout = std::chrono::milliseconds(20)});
  Sink running;
  Request request = Ask({1}, 60);
  request.timeout = std::chrono::hours(1);
  loop.Submit(request, running.Callback());
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  worker.hold = false;
  running.Wait();
  EXPECT_THAT(running.finishes(), ElementsAre(FinishReason::kTimeout));
  EXPECT_THAT(running.error(), HasSubstr("0.02 s"));
}

ErrorCode RefusedWith(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  ADD_FAILURE() << "was taken";
  return ErrorCode::kInternal;
}

TEST_P(EngineLoopTest, AFullQueueRefusesUntilItMoves) {
  CountingWorker worker(GetParam());
  worker.hold = true;
  EngineLoop loop(worker, MakeAutoregressive(), {.max_num_seqs = 1, .queue = {.max_requests = 2}});
  Sink running;
  Sink waiting(2);
  loop.Submit(Ask({1}, 4), running.Callback());
  AwaitCounts(loop, 1, 0);
  Request two = Ask({1}, 4);
  two.sampling.n = 2;
  EXPECT_FALSE(loop.Refusal());
  loop.Submit(two, waiting.Callback());
  const auto never = [](const Output&) { ADD_FAILURE() << "was run"; };
  EXPECT_EQ(loop.Refusal().value().code(), ErrorCode::kResourceExhausted);
  EXPECT_EQ(RefusedWith([&] { loop.Submit(Ask({1}, 4), never); }), ErrorCode::kResourceExhausted);
  worker.hold = false;
  running.Wait();
  waiting.Wait();
  EXPECT_EQ(waiting.tokens().size(), 8u);
  EXPECT_FALSE(loop.Refusal());
}

TEST_P(EngineLoopTest, PromptsCountUntilTheyHaveATokenOrEnd) {
  CountingWorker worker(GetParam());
  worker.hold = true;
  EngineLoop loop(worker, MakeAutoregressive(), {.max_num_seqs = 1, .queue = {.max_tokens = 10}});
  Sink running;
  Sink waiting;
  loop.Submit(Ask({1, 2, 3, 4, 5, 6}, 4), running.Callback());
  AwaitCounts(loop, 1, 0);
  EXPECT_EQ(loop.Stats().waiting_tokens, 6);
  const RequestId aborted = loop.Submit(Ask({1, 2, 3}, 4), waiting.Callback());
  const auto never = [](const Output&) { ADD_FAILURE() << "was run"; };
  EXPECT_EQ(RefusedWith([&] {
              loop.Submit(Ask({1, 2}, 4), never);
            }),
            ErrorCode::kResourceExhausted);
  loop.Abort(aborted);
  worker.hold = false;
  running.Wait();
  waiting.Wait();
  EXPECT_EQ(loop.Stats().waiting_tokens, 0);
}

TEST_P(EngineLoopTest, AFailedCallbackLeavesNothingInTheQueue) {
  CountingWorker worker(GetParam());
  EngineLoop loop(worker, MakeAutoregressive(),
                  {.max_num_seqs = 1, .queue = {.max_requests = 4, .max_tokens = 100}});
  Request two = Ask({1, 2, 3}, 4);
  two.sampling.n = 3;
  loop.Submit(two, [](const Output&) { throw std::runtime_error("no"); });
  Sink after;
  loop.Submit(Ask({1}, 4), after.Callback());
  after.Wait();
  EXPECT_EQ(loop.Stats().waiting_tokens, 0);
  EXPECT_EQ(loop.Stats().waiting, 0);
}

TEST_P(EngineLoopTest, ReportsOfAStepGoToAThreadTogether) {
  CountingWorker worker(GetParam());
  CountingExecutor executor;
  Sink sink(3);
  {
    EngineLoop loop(worker, MakeAutoregressive(), {});
    Request three = Ask({1, 2, 3}, 8);
    three.sampling.n = 3;
    loop.Submit(three, sink.Callback(), std::shared_ptr<Executor>(&executor, [](Executor*) {}));
    sink.Wait();
  }
  EXPECT_EQ(sink.tokens().size(), 3 * 8);
  EXPECT_LE(executor.posts, 8 + 2);  // where prefills are cut, the three may be some steps apart
}

TEST_P(EngineLoopTest, AStuckStepIsToldUntilItReturns) {
  CountingWorker worker(GetParam());
  worker.hold = true;
  EngineLoop loop(worker, MakeAutoregressive(), {.step_timeout = std::chrono::milliseconds(20)});
  Sink stuck;
  loop.Submit(Ask({1}, 4), stuck.Callback());
  while (loop.Stats().failure.empty()) std::this_thread::yield();
  EXPECT_THAT(loop.Stats().failure, HasSubstr("running step 1 with 1 sequences"));
  EXPECT_TRUE(loop.Stats().restarting) << "it may pass";
  EXPECT_THAT(Refusal(loop), HasSubstr("running step 1"));
  EXPECT_EQ(loop.Refusal().value().code(), ErrorCode::kUnavailable);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // for the watchdog to say so
  worker.hold = false;
  stuck.Wait();
  EXPECT_EQ(stuck.tokens().size(), 4u);
  while (!loop.Stats().failure.empty()) std::this_thread::yield();
  Sink after;
  loop.Submit(Ask({1}, 2), after.Callback());
  after.Wait();
}

TEST_P(EngineLoopTest, RemembersHowLongItsStepsTook) {
  CountingWorker worker(GetParam());
  EngineLoop loop(worker, MakeAutoregressive(), {});
  worker.fail = true;
  Sink failed;
  loop.Submit(Ask({1}, 4), failed.Callback());
  failed.Wait();
  worker.fail = false;
  Sink sink;
  loop.Submit(Ask({1, 2, 3}, 4), sink.Callback());
  sink.Wait();
  loop.Stop();
  std::vector<StepTiming> steps = loop.RecentSteps();
  EXPECT_TRUE(steps.front().failed);
  // With two under way a step may have been planned behind the one that failed.
  steps.erase(steps.begin(), std::find_if(steps.begin(), steps.end(), [](const StepTiming& step) {
                return step.prefill_rows == 3;
              }));
  ASSERT_GE(steps.size(), 4u);
  EXPECT_EQ(steps[0].prefill_rows, 3);
  EXPECT_EQ(steps[0].decode_rows, 0);
  EXPECT_EQ(steps[1].decode_rows, 1);
  for (const StepTiming& step : steps) {
    EXPECT_EQ(step.sequences, 1);
    EXPECT_GT(step.phase(StepPhase::kPlan).count(), 0);
    EXPECT_GT(step.phase(StepPhase::kReport).count(), 0);
  }
}

TEST_P(EngineLoopTest, ALostWorkerEndsEveryRequestAndIsTold) {
  CountingWorker worker(GetParam());
  worker.hold = true;
  worker.lose = true;
  EngineLoop loop(worker, MakeAutoregressive(), {.max_num_seqs = 1});
  EXPECT_EQ(loop.Stats().failure, "");
  Sink running;
  Sink waiting;
  loop.Submit(Ask({1}, 4), running.Callback());
  loop.Submit(Ask({1}, 4), waiting.Callback());
  worker.hold = false;
  running.Wait();
  waiting.Wait();
  for (const Sink* sink : {&running, &waiting}) {
    EXPECT_THAT(sink->finishes(), ElementsAre(FinishReason::kError));
    EXPECT_THAT(sink->error(), HasSubstr("the device is gone"));
  }
  EXPECT_THAT(loop.Stats().failure, HasSubstr("the device is gone"));
  EXPECT_THAT(Refusal(loop), HasSubstr("the device is gone"));
  AwaitSettled(loop);  // a worker that cannot be started again is not, and the loop can stop
  EXPECT_EQ(worker.restarts, 1);
  EXPECT_THAT(loop.Stats().failure, HasSubstr("the device is gone"));
}

// So that tries follow each other at once.
constexpr RestartLimits kAtOnce{.most = 3, .first_pause = std::chrono::milliseconds(0)};

TEST_P(EngineLoopTest, ALostWorkerIsStartedAgainAndNothingOfItIsKept) {
  CountingWorker worker(GetParam());
  worker.can_restart = true;
  worker.failing_restarts = 2;
  EngineLoop loop(worker, MakeAutoregressive(), {.restarts = kAtOnce});
  Sink before;
  loop.Submit(Ask({1, 2, 3, 4, 5}, 2), before.Callback());
  before.Wait();
  worker.lose = true;
  Sink lost;
  loop.Submit(Ask({1, 2, 3, 4, 5}, 40), lost.Callback());
  lost.Wait();
  EXPECT_THAT(lost.finishes(), ElementsAre(FinishReason::kError));
  AwaitSettled(loop);
  EXPECT_EQ(worker.restarts, 3);
  EXPECT_EQ(loop.Stats().failure, "");
  EXPECT_EQ(loop.Stats().pages_used, 0);
  Sink after;
  loop.Submit(Ask({1, 2, 3, 4, 5}, 2), after.Callback());
  after.Wait();
  EXPECT_EQ(after.tokens(), before.tokens());
  EXPECT_EQ(loop.Stats().prefix_hits, 4u) << "only of the one that was lost";
}

TEST_P(EngineLoopTest, AWorkerLostBetweenStepsIsStartedAgain) {
  CountingWorker worker(GetParam());
  worker.can_restart = true;
  EngineLoop loop(worker, MakeAutoregressive(), {.restarts = kAtOnce});
  worker.lose = true;
  while (worker.restarts == 0) std::this_thread::yield();
  AwaitSettled(loop);
  EXPECT_EQ(loop.Stats().failure, "");
  Sink sink;
  loop.Submit(Ask({1}, 2), sink.Callback());
  sink.Wait();
  EXPECT_THAT(sink.finishes(), ElementsAre(FinishReason::kLength));
}

TEST_P(EngineLoopTest, AWorkerThatDoesNotComeBackIsGivenUp) {
  CountingWorker worker(GetParam());
  worker.failing_restarts = 100;
  worker.lose = true;
  EngineLoop loop(worker, MakeAutoregressive(), {.restarts = kAtOnce});
  while (worker.restarts < 3) std::this_thread::yield();
  AwaitSettled(loop);
  EXPECT_THAT(loop.Stats().failure, HasSubstr("too often"));
  EXPECT_THAT(loop.Stats().failure, HasSubstr("does not come back"));
  EXPECT_THAT(Refusal(loop), HasSubstr("too often"));
  EXPECT_EQ(worker.restarts, 3);
}

TEST_P(EngineLoopTest, StopsWhileItsWorkerIsStartedAgain) {
  CountingWorker worker(GetParam());
  worker.stall = true;
  worker.lose = true;
  EngineLoop loop(worker, MakeAutoregressive(), {.restarts = kAtOnce});
  while (!loop.Stats().restarting) std::this_thread::yield();
  EXPECT_THAT(Refusal(loop), HasSubstr("starts it again"));
  loop.Stop();
}

TEST_P(EngineLoopTest, AbortFreesThePages) {
  CountingWorker worker(GetParam());
  worker.hold = true;
  EngineLoop loop(worker, MakeAutoregressive(), {});
  Sink sink(2);
  Request request = Ask({1, 2}, 60);
  request.sampling.n = 2;
  const RequestId id = loop.Submit(request, sink.Callback());
  loop.Abort(id);
  worker.hold = false;
  sink.Wait();
  EXPECT_THAT(sink.finishes(), ElementsAre(FinishReason::kAbort, FinishReason::kAbort));
  EXPECT_EQ(loop.Stats().pages_used, 0);
  loop.Abort(id);
  loop.Abort(12345);
}

TEST_P(EngineLoopTest, AbortSequenceEndsOneAsStopped) {
  CountingWorker worker(GetParam());
  worker.hold = true;
  EngineLoop loop(worker, MakeAutoregressive(), {});
  Sink sink(2);
  Request request = Ask({1, 2}, 10);
  request.sampling.n = 2;
  loop.AbortSequence(loop.Submit(request, sink.Callback()), 1);
  worker.hold = false;
  sink.Wait();
  EXPECT_THAT(sink.finishes(), ElementsAre(FinishReason::kStop, FinishReason::kLength));
}

TEST_P(EngineLoopTest, StopEndsEverythingAndRefusesMore) {
  CountingWorker worker(GetParam());
  worker.hold = true;
  EngineLoop loop(worker, MakeAutoregressive(), {.max_num_seqs = 1});
  Sink running, waiting;
  loop.Submit(Ask({1}, 60), running.Callback());
  loop.Submit(Ask({1}, 60), waiting.Callback());
  std::thread stopper([&] { loop.Stop(); });
  // Stop waits for the step under way, and refuses submissions from its first moment on.
  bool refused = false;
  while (!refused) {
    try {
      loop.Submit(Ask({1}, 60), [](const Output&) {});
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnavailable);
      refused = true;
    }
  }
  worker.hold = false;
  stopper.join();
  running.Wait();
  waiting.Wait();
  EXPECT_THAT(running.finishes(), ElementsAre(FinishReason::kAbort));
  EXPECT_THAT(waiting.finishes(), ElementsAre(FinishReason::kAbort));
  EXPECT_EQ(loop.Stats().pages_used, 0);
}

TEST_P(EngineLoopTest, UnseededRequestsDifferAndSeededOnesKeepTheirs) {
  CountingWorker worker(GetParam());
  {
    EngineLoop loop(worker, MakeAutoregressive(), {});
    Sink first, second, seeded;
    loop.Submit(Ask({1}, 2), first.Callback());
    loop.Submit(Ask({1}, 2), second.Callback());
    Request request = Ask({1}, 2);
    request.sampling.seed = 77;
    loop.Submit(request, seeded.Callback());
    first.Wait();
    second.Wait();
    seeded.Wait();
  }
  EXPECT_THAT(worker.seeds, SizeIs(3));
  EXPECT_TRUE(worker.seeds.count(77));
}

TEST_P(EngineLoopTest, ACallbackThatThrowsEndsItsRequestOnly) {
  CountingWorker worker(GetParam());
  EngineLoop loop(worker, MakeAutoregressive(), {});
  std::atomic<int> calls = 0;
  loop.Submit(Ask({1}, 50), [&](const Output&) {
    ++calls;
    throw std::runtime_error("a careless client");
  });
  Sink sink;
  loop.Submit(Ask({1}, 5), sink.Callback());
  sink.Wait();
  loop.Stop();
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(loop.Stats().pages_used, 0);
}

TEST_P(EngineLoopTest, ACallbackMaySubmitAndAbort) {
  CountingWorker worker(GetParam());
  EngineLoop loop(worker, MakeAutoregressive(), {});
  Sink second;
  const OutputCallback inner = second.Callback();
  std::atomic<bool> submitted = false;
  const RequestId id = loop.Submit(Ask({1}, 50), [&](const Output&) {
    if (!submitted.exchange(true)) loop.Submit(Ask({9}, 1), inner);
  });
  second.Wait();
  loop.Abort(id);
  loop.Stop();
  EXPECT_THAT(second.tokens(), ElementsAre(10));
}

TEST_P(EngineLoopTest, CountsUnderVllmsNames) {
  Metrics metrics;
  CountingWorker worker(GetParam());
  EngineLoop loop(worker, MakeAutoregressive(), {.metric_labels = {{"model_name", "m"}}}, &metrics);
  Sink sink;
  loop.Submit(Ask({1, 2, 3}, 4), sink.Callback());
  sink.Wait();
  loop.Stop();
  EXPECT_EQ(ValueOf(metrics, "vllm:prompt_tokens_total"), 3);
  EXPECT_EQ(ValueOf(metrics, "vllm:generation_tokens_total"), 4);
  EXPECT_EQ(ValueOf(metrics, "vllm:prefix_cache_queries_total"), 3);
  EXPECT_EQ(ValueOf(metrics, "vllm:prefix_cache_hits_total"), 0);
  EXPECT_EQ(ValueOf(metrics, "vllm:prompt_tokens_cached_total"), 0);
  EXPECT_EQ(ValueOf(metrics, "sluice:prefix_cache_evicted_pages_total"), 0);
  EXPECT_EQ(ValueOf(metrics, "vllm:num_preemptions_total"), 0);
  EXPECT_EQ(ValueOf(metrics, "vllm:num_requests_running"), 0);
  EXPECT_EQ(ValueOf(metrics, "vllm:num_requests_waiting"), 0);
  EXPECT_EQ(ValueOf(metrics, "vllm:kv_cache_usage_perc"), 0);
  EXPECT_EQ(ValueOf(metrics, "vllm:request_success_total", "length"), 1);
  EXPECT_EQ(ValueOf(metrics, "vllm:request_success_total", "stop"), 0);
  EXPECT_EQ(ValueOf(metrics, "vllm:time_to_first_token_seconds"), 1);
  EXPECT_EQ(ValueOf(metrics, "vllm:inter_token_latency_seconds"), 3);
  EXPECT_EQ(ValueOf(metrics, "vllm:e2e_request_latency_seconds"), 1);
  EXPECT_EQ(ValueOf(metrics, "vllm:request_queue_time_seconds"), 1);
  EXPECT_EQ(ValueOf(metrics, "vllm:iteration_tokens_total"), 4);
  EXPECT_EQ(ValueOf(metrics, "vllm:request_inference_time_seconds"), 1);
  EXPECT_EQ(ValueOf(metrics, "vllm:request_params_max_tokens"), 1);
  EXPECT_EQ(ValueOf(metrics, "vllm:num_requests_waiting_by_reason", "capacity"), 0);
  EXPECT_EQ(ValueOf(metrics, "vllm:num_requests_waiting_by_reason", "deferred"), 0);
  EXPECT_EQ(ValueOf(metrics, "vllm:engine_sleep_state", "awake"), 1);
  EXPECT_EQ(ValueOf(metrics, "sluice:waiting_prompt_tokens"), 0);
}

}  // namespace
}  // namespace sluice
