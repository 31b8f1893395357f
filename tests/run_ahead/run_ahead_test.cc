#include <gtest/gtest.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <vector>

#include "arch/testing.h"
#include "device/cuda_stream.h"
#include "engine/deferring_worker.h"
#include "engine/model_runner.h"
#include "sched/engine_loop.h"

namespace sluice {
namespace {

constexpr int kStreams = 64;

// A worker on the CPU that can have two steps under way.
class DeferringModel : public DeferringWorker {
 public:
  explicit DeferringModel(ModelRunner& runner) : worker_(runner) {}
  WorkerInfo Info() const override {
    WorkerInfo info = worker_.Info();
    info.max_steps = 2;
    return info;
  }

 protected:
  StepResult Run(const StepPlan& plan) override { return worker_.Execute(plan); }

 private:
  InProcessWorker worker_;
};

// Says that copies to and from the host's pages take no time, so that all that fits is swapped.
class CheapSwaps : public InProcessWorker {
 public:
  using InProcessWorker::InProcessWorker;
  WorkerInfo Info() const override {
    WorkerInfo info = InProcessWorker::Info();
    EXPECT_TRUE(info.num_host_pages == 0 || info.swap_seconds_per_page > 0);
    info.swap_seconds_per_page = 0;
    return info;
  }
};

// Gives another worker so many steps at once, and counts those given while one was under way.
class Watched : public Worker {
 public:
  Watched(Worker& worker, int max_steps) : worker_(worker), max_steps_(max_steps) {}
  WorkerInfo Info() const override {
    WorkerInfo info = worker_.Info();
    EXPECT_LE(max_steps_, info.max_steps);
    info.max_steps = max_steps_;
    return info;
  }
  void Submit(const StepPlan& plan) override {
    ++steps;
    if (under_way_++ > 0) ++steps_ahead;
    worker_.Submit(plan);
  }
  StepResult Collect() override {
    --under_way_;
    return worker_.Collect();
  }

  int steps = 0;
  int steps_ahead = 0;

 private:
  Worker& worker_;
  const int max_steps_;
  int under_way_ = 0;
};

struct Text {
  std::vector<TokenId> tokens;
  std::optional<FinishReason> finish;
  bool operator==(const Text&) const = default;
};

struct Outcome {
  std::vector<Text> texts;
  int steps = 0;
  int steps_ahead = 0;
  EngineStats stats;
};

// Prompts and ends of every kind, drawn greedily and not.
Request RequestOf(int stream) {
  std::mt19937 random(stream);
  const auto pick = [&](int bound) { return static_cast<int>(random() % bound); };
  Request request;
  const int prompt = 1 + pick(25);
  for (int i = 0; i < prompt; ++i) request.prompt.push_back(pick(64));
  SamplingParams& sampling = request.sampling;
  sampling.temperature = pick(3) == 0 ? 0.0f : 1.0f;
  sampling.top_k = pick(2) * 20;
  sampling.seed = stream;
  sampling.max_tokens = 1 + pick(60);
  sampling.min_tokens = pick(3) == 0 ? pick(sampling.max_tokens) : 0;
  sampling.ignore_eos = pick(3) == 0;
  if (pick(3) == 0) sampling.stop_token_ids = {pick(64)};
  if (pick(4) == 0) sampling.logprobs = 1;
  return request;
}

Outcome RunStreams(Worker& worker, int max_steps) {
  Watched watched(worker, max_steps);
  std::mutex mutex;
  std::condition_variable finished;
  Outcome run;
  run.texts.resize(kStreams);
  int unfinished = kStreams;
  {
    EngineLoop loop(watched, MakeAutoregressive(),
                    {.max_num_seqs = 16, .max_num_batched_tokens = 48, .eos_ids = {3, 11}});
    for (int i = 0; i < kStreams; ++i) {
      loop.Submit(RequestOf(i), [&, i](const Output& output) {
        const std::lock_guard lock(mutex);
        for (const SampledToken& drawn : output.tokens) run.texts[i].tokens.push_back(drawn.token);
        run.texts[i].finish = output.finish;
        if (output.finish && --unfinished == 0) finished.notify_one();
      });
    }
    std::unique_lock lock(mutex);
    finished.wait(lock, [&] { return unfinished == 0; });
    lock.unlock();
    loop.Stop();
    run.stats = loop.Stats();
  }
  run.steps = watched.steps;
  run.steps_ahead = watched.steps_ahead;
  return run;
}

class RunAheadTest : public testing::Test {
 protected:
  RunAheadTest() : spec_(TinyMoeSpec()), source_(ListTensors(spec_), DType::kF32, 1) {}

  // With pages for a part of the streams that run at once.
  std::unique_ptr<ModelRunner> MakeRunner(std::optional<int> cuda, int num_pages = 48,
                                          int num_host_pages = 0, bool batch_invariant = false) {
    return std::make_unique<ModelRunner>(spec_, source_,
                                         RunnerOptions{.cuda = cuda,
                                                       .num_threads = 2,
                                                       .page_size = 4,
                                                       .num_pages = num_pages,
                                                       .num_host_pages = num_host_pages,
                                                       .max_model_len = 64,
                                                       .batch_invariant = batch_invariant},
                                         std::make_unique<ModelRouting>());
  }

  // Whether sequences are sent back or not, to be computed again or copied back.
  void ExpectSwappingChangesNothing(std::optional<int> cuda) {
    const auto roomy = MakeRunner(cuda, 400, 0, /*batch_invariant=*/true);
    InProcessWorker roomy_worker(*roomy);
    const Outcome undisturbed = RunStreams(roomy_worker, 1);
    EXPECT_EQ(undisturbed.stats.preemptions, 0u);
    for (const bool swaps : {false, true}) {
      const auto runner = MakeRunner(cuda, 48, swaps ? 40 : 0, /*batch_invariant=*/true);
      CheapSwaps worker(*runner);
      const Outcome run = RunStreams(worker, 1);
      EXPECT_GT(run.stats.preemptions, 5u);
      EXPECT_EQ(run.stats.pages_swapped_in > 20, swaps);
      EXPECT_EQ(run.texts, undisturbed.texts);
    }
  }

  static void ExpectSameTexts(Worker& worker) {
    const Outcome in_turns = RunStreams(worker, 1);
    const Outcome ahead = RunStreams(worker, 2);
    EXPECT_EQ(in_turns.steps_ahead, 0);
    EXPECT_GT(ahead.steps_ahead * 3, ahead.steps);
    EXPECT_GT(ahead.stats.preemptions, 0u);
    EXPECT_EQ(ahead.stats.pages_used, 0);
    EXPECT_EQ(ahead.stats.generation_tokens, in_turns.stats.generation_tokens);
    int stopped = 0;
    for (int i = 0; i < kStreams; ++i) {
      EXPECT_EQ(ahead.texts[i], in_turns.texts[i]) << "stream " << i;
      EXPECT_NE(in_turns.texts[i].finish, FinishReason::kError);
      stopped += in_turns.texts[i].finish == FinishReason::kStop;
    }
    EXPECT_GT(stopped, 5);
    EXPECT_LT(stopped, kStreams - 5);
  }

  ModelSpec spec_;
  DummySource source_;
};

TEST_F(RunAheadTest, EveryStreamSaysTheSame) {
  const auto runner = MakeRunner(std::nullopt);
  DeferringModel worker(*runner);
  ExpectSameTexts(worker);
}

TEST_F(RunAheadTest, SwappingChangesNothing) {
  ExpectSwappingChangesNothing(std::nullopt);
}

TEST_F(RunAheadTest, SwappingChangesNothingOnADevice) {
  if (CudaDevices().empty()) GTEST_SKIP() << "there is no CUDA device";
  ExpectSwappingChangesNothing(0);
}

TEST_F(RunAheadTest, EveryStreamSaysTheSameOnADevice) {
  if (CudaDevices().empty()) GTEST_SKIP() << "there is no CUDA device";
  const auto runner = MakeRunner(0);
  InProcessWorker worker(*runner);
  ExpectSameTexts(worker);
}

}  // namespace
}  // namespace sluice
