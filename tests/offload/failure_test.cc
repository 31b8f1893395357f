// Requests on a model whose experts do not all have a slot, while some of them cannot be read.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "arch/testing.h"
#include "decode/decode_strategy.h"
#include "engine/model_runner.h"
#include "sched/engine_loop.h"

namespace sluice {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int kPageSize = 4;
constexpr int kFirstLate = 20;  // the first position that goes to experts 6 and 7

// Random weights of which an expert's can be made unreadable, as on a disk that fails.
class FailingSource : public WeightSource {
 public:
  explicit FailingSource(const ModelSpec& spec) : weights_(ListTensors(spec), DType::kF32, 1) {}

  // Tensors whose name holds `part` cannot be read; none for an empty part.
  void FailOn(const std::string& part) {
    const std::lock_guard lock(mutex_);
    failing_ = part;
  }

  bool Has(const std::string& name) const override { return weights_.Has(name); }
  DType dtype(const std::string& name) const override { return weights_.dtype(name); }
  Shape shape(const std::string& name) const override { return weights_.shape(name); }
  std::vector<std::string> names() const override { return weights_.names(); }
  std::string origin() const override { return weights_.origin(); }

 private:
  void CopyElements(const std::string& name, int64_t first, TensorView target) const override {
    {
      const std::lock_guard lock(mutex_);
      if (!failing_.empty() && name.find(failing_) != std::string::npos) {
        throw Error(ErrorCode::kDataLoss, "part-2.safetensors: input/output error");
      }
    }
    const Shape shape = weights_.shape(name);
    weights_.ReadRows(name, shape, first / (shape.NumElements() / shape[0]), target);
  }

  DummySource weights_;
  mutable std::mutex mutex_;
  std::string failing_;
};

// Early positions go to experts 0 to 5, late ones to 6 and 7.
class ByPosition : public RoutingSource {
 public:
  void Apply(int, std::span<const RoutingKey> tokens, TensorView weights, TensorView ids) override {
    for (size_t t = 0; t < tokens.size(); ++t) {
      const int32_t position = tokens[t].position;
      const bool late = position >= kFirstLate;
      ids.data<int32_t>()[2 * t] = late ? 6 : position % 3;
      ids.data<int32_t>()[2 * t + 1] = late ? 7 : 3 + position % 2;
      weights.data<float>()[2 * t] = weights.data<float>()[2 * t + 1] = 0.5f;
    }
  }
  std::string Name() const override { return "by position"; }
  bool ReadsModel() const override { return false; }
};

struct Answer {
  std::vector<TokenId> tokens;
  std::optional<FinishReason> finish;
  std::string error;
  int cached_tokens = 0;
};

class OffloadFailureTest : public ::testing::TestWithParam<std::tuple<int, int>> {
 protected:
  OffloadFailureTest() : spec_(TinyMoeSpec()), source_(spec_) {}

  // With every expert in a slot, or with four slots of 16, so many experts in host memory, and
  // prompts in so many layer groups: GetParam().
  std::unique_ptr<ModelRunner> MakeRunner(bool resident) {
    RunnerOptions options{.num_threads = 2,
                          .tier = DetectCpuTier(),
                          .page_size = kPageSize,
                          .num_pages = 96,
                          .max_model_len = 64,
                          .poison_freed_slots = true};
    if (!resident) {
      options.expert_slots = 4;
      std::tie(options.offload.host_slots, options.offload.prefill_layer_groups) = GetParam();
    }
    return std::make_unique<ModelRunner>(spec_, source_, options, std::make_unique<ByPosition>());
  }

  static Request RequestOf(int first_token, int prompt, int max_tokens) {
    Request request;
    for (int i = 0; i < prompt; ++i) request.prompt.push_back((first_token + 5 * i) % 64);
    request.sampling = {.temperature = 0, .max_tokens = max_tokens, .ignore_eos = true};
    return request;
  }

  // Serves requests beside each other until all have ended.
  static std::vector<Answer> Serve(EngineLoop& loop, const std::vector<Request>& requests) {
    std::mutex mutex;
    std::condition_variable ended;
    size_t unfinished = requests.size();
    std::vector<Answer> answers(requests.size());
    for (size_t i = 0; i < requests.size(); ++i) {
      loop.Submit(requests[i], [&, i](const Output& output) {
        const std::lock_guard lock(mutex);
        Answer& answer = answers[i];
        for (const SampledToken& token : output.tokens) answer.tokens.push_back(token.token);
        answer.cached_tokens += output.cached_tokens;
        if (!output.finish) return;
        answer.finish = output.finish;
        answer.error = output.error;
        if (--unfinished == 0) ended.notify_one();
      });
    }
    std::unique_lock lock(mutex);
    ended.wait(lock, [&] { return unfinished == 0; });
    return answers;
  }

  static std::unique_ptr<EngineLoop> MakeLoop(Worker& worker) {
    return std::make_unique<EngineLoop>(
        worker, MakeAutoregressive(),
        EngineOptions{.max_num_seqs = 8, .max_num_batched_tokens = 16});
  }

  // What requests get with every expert in a slot, each alone.
  std::vector<Answer> Expected(const std::vector<Request>& requests) {
    const auto runner = MakeRunner(/*resident=*/true);
    InProcessWorker worker(*runner);
    const auto loop = MakeLoop(worker);
    std::vector<Answer> expected;
    for (const Request& request : requests) expected.push_back(Serve(*loop, {request})[0]);
    return expected;
  }

  ModelSpec spec_;
  FailingSource source_;
};

TEST_P(OffloadFailureTest, OnlyWhatNeedsTheExpertFailsByNameAndLaterRequestsTryAgain) {
  // Two that stay among the early positions, one whose prompt goes beyond them, and one whose
  // answer does.
  const std::vector<Request> requests = {RequestOf(1, 7, 12), RequestOf(2, 30, 8),
                                         RequestOf(3, 14, 12), RequestOf(4, 11, 9)};
  const std::vector<Answer> expected = Expected(requests);
  const auto runner = MakeRunner(/*resident=*/false);
  InProcessWorker worker(*runner);
  const auto loop = MakeLoop(worker);
  source_.FailOn("layers.1.mlp.experts.7.");
  for (int round = 0; round < 2; ++round) {
    const std::vector<Answer> answers = Serve(*loop, requests);
    for (const int i : {0, 3}) {
      EXPECT_EQ(answers[i].finish, FinishReason::kLength) << answers[i].error;
      EXPECT_EQ(answers[i].tokens, expected[i].tokens) << i;
    }
    for (const int i : {1, 2}) {
      EXPECT_EQ(answers[i].finish, FinishReason::kError) << i;
      EXPECT_THAT(answers[i].error, AllOf(HasSubstr("expert 7"), HasSubstr("layer 1"),
                                          HasSubstr("part-2.safetensors: input/output error")));
      // What came before is right.
      ASSERT_LT(answers[i].tokens.size(), expected[i].tokens.size());
      EXPECT_TRUE(std::equal(answers[i].tokens.begin(), answers[i].tokens.end(),
                             expected[i].tokens.begin()));
    }
    EXPECT_TRUE(answers[1].tokens.empty());
    EXPECT_EQ(answers[2].tokens.size(), size_t{kFirstLate - 14 + 1});
    EXPECT_EQ(loop->Stats().pages_used, 0);
  }
  EXPECT_GE(runner->offload_stats()->layers[1].failed, 2u);
  EXPECT_EQ(runner->offload_stats()->layers[0].failed, 0u);

  // The disk is well again. Of the prompt, whole pages before the failed step are cached, and no
  // page of it.
  source_.FailOn("");
  const std::vector<Answer> answers = Serve(*loop, requests);
  for (size_t i = 0; i < answers.size(); ++i) {
    EXPECT_EQ(answers[i].finish, FinishReason::kLength) << answers[i].error;
    EXPECT_EQ(answers[i].tokens, expected[i].tokens) << i;
  }
  EXPECT_LE(answers[1].cached_tokens, kFirstLate);
  EXPECT_LE(answers[2].cached_tokens, 14);
}

TEST_P(OffloadFailureTest, ALayerThatNobodyCanReadFailsEverybodyAndNothingStays) {
  const std::vector<Request> requests = {RequestOf(1, 7, 12), RequestOf(2, 30, 8)};
  const std::vector<Answer> expected = Expected(requests);
  const auto runner = MakeRunner(/*resident=*/false);
  InProcessWorker worker(*runner);
  const auto loop = MakeLoop(worker);
  source_.FailOn("layers.1.mlp.experts.");
  for (const Answer& answer : Serve(*loop, requests)) {
    EXPECT_EQ(answer.finish, FinishReason::kError);
    EXPECT_THAT(answer.error, HasSubstr("layer 1"));
  }
  EXPECT_EQ(loop->Stats().pages_used, 0);
  source_.FailOn("");
  const std::vector<Answer> answers = Serve(*loop, requests);
  for (size_t i = 0; i < answers.size(); ++i) {
    EXPECT_EQ(answers[i].tokens, expected[i].tokens) << i;
    EXPECT_EQ(answers[i].cached_tokens, 0);
  }
}

TEST_P(OffloadFailureTest, ClientsThatLeaveLeaveNothingBehind) {
  const std::vector<Request> requests = {RequestOf(5, 9, 20), RequestOf(6, 33, 20)};
  const std::vector<Answer> expected = Expected(requests);
  const auto runner = MakeRunner(/*resident=*/false);
  InProcessWorker worker(*runner);
  const auto loop = MakeLoop(worker);
  for (int round = 0; round < 10; ++round) {
    std::atomic<int> ended = 0;
    std::vector<RequestId> leaving;
    for (int i = 0; i < 6; ++i) {
      leaving.push_back(loop->Submit(RequestOf(10 * round + i, 25, 30), [&](const Output& output) {
        if (output.finish) ++ended;
      }));
    }
    if (round % 2 == 1) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    for (const RequestId id : leaving) loop->Abort(id);
    const std::vector<Answer> answers = Serve(*loop, requests);
    for (size_t i = 0; i < answers.size(); ++i) EXPECT_EQ(answers[i].tokens, expected[i].tokens);
    EXPECT_EQ(ended, 6);
    EXPECT_EQ(loop->Stats().pages_used, 0);
  }
}

// Experts in host memory at first: none, or those of layer 0.
INSTANTIATE_TEST_SUITE_P(HostSlots, OffloadFailureTest,
                         ::testing::Combine(::testing::Values(0, 8), ::testing::Values(1, 2)),
                         [](const auto& ways) {
                           return "Host" + std::to_string(std::get<0>(ways.param)) + "Groups" +
                                  std::to_string(std::get<1>(ways.param));
                         });

}  // namespace
}  // namespace sluice
