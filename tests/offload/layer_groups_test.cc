// Prompts that go through the layers in several steps, beside sequences that decode in each of them
// (layered prefill): they say what they say in one step, bit for bit.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "device/cuda_stream.h"
#include "golden_model.h"
#include "sched/scheduler.h"

namespace sluice {
namespace {

// What each layer chose for each token.
class Choices : public RouterObserver {
 public:
  using Token = std::tuple<int, uint64_t, int32_t>;  // layer, sequence, position
  void Observe(uint64_t /*step*/, int layer, std::span<const RoutingKey> tokens,
               ConstTensorView weights, ConstTensorView ids) override {
    const std::lock_guard lock(mutex_);
    const int64_t k = ids.dim(1);
    for (int64_t t = 0; t < std::ssize(tokens); ++t) {
      std::vector<std::pair<int32_t, float>>& chosen =
          seen_[{layer, tokens[t].sequence, tokens[t].position}];
      EXPECT_TRUE(chosen.empty()) << "a token went through layer " << layer << " twice";
      for (int64_t i = 0; i < k; ++i) {
        chosen.emplace_back(ids.data<int32_t>()[t * k + i], weights.data<float>()[t * k + i]);
      }
    }
  }
  const std::map<Token, std::vector<std::pair<int32_t, float>>>& seen() const { return seen_; }

 private:
  std::mutex mutex_;
  std::map<Token, std::vector<std::pair<int32_t, float>>> seen_;
};

class LayerGroupsTest : public ::testing::TestWithParam<std::string> {
 protected:
  // Tokens of each request with their logprobs, and those of the prompts.
  using Said = std::map<RequestId, std::vector<std::tuple<TokenId, float, int>>>;

  std::unique_ptr<ModelRunner> MakeRunner(RunnerOptions options, int groups,
                                          RouterObserver* observer = nullptr) const {
    options.max_step_rows = 64;
    options.observer = observer;
    if (groups > 0) {
      options.expert_slots = static_cast<int>(model_.NumExperts() / 3);
      options.offload = {.host_slots = static_cast<int>(model_.NumExperts()),
                         .prefill_layer_groups = groups};
    }
    return model_.MakeRunner(options);
  }

  static SchedulerConfig ConfigOf(const WorkerInfo& info) {
    return {.max_num_seqs = 6,
            .max_num_batched_tokens = 24,
            .max_model_len = info.max_model_len,
            .page_size = info.page_size,
            .num_pages = info.num_pages,
            .prefill_layer_groups = info.prefill_layer_groups};
  }

  Request MakeRequest(int row, int length, int max_tokens) const {
    const std::span<const TokenId> tokens = model_.rows()[row];
    Request request{.prompt = {tokens.begin(), tokens.begin() + length}};
    request.sampling.temperature = 0.8f;
    request.sampling.max_tokens = max_tokens;
    request.sampling.ignore_eos = true;
    request.sampling.logprobs = 2;
    if (row % 2 == 1) request.sampling.prompt_logprobs = 1;
    return request;
  }

  // Prompts that come one by one while others decode, some of several steps' rows.
  Said Ask(ModelRunner& runner) {
    InProcessWorker worker(runner);
    const auto strategy = MakeAutoregressive();
    Scheduler scheduler(ConfigOf(worker.Info()), *strategy);
    const int rows = static_cast<int>(model_.rows().size());
    const int most = static_cast<int>(model_.rows()[0].size());
    Said said;
    steps_between_layers_ = 0;
    for (int step = 0; step < 6 || !scheduler.idle(); ++step) {
      if (step < 6) {
        const int length = step == 0 ? 3 : std::max(2, most - 2 * step);
        scheduler.Add(static_cast<RequestId>(step), MakeRequest(step % rows, length, 12),
                      static_cast<uint64_t>(step));
      }
      const StepPlan plan = scheduler.Plan();
      const StepResult result = worker.Execute(plan);
      EXPECT_EQ(result.error, "");
      if (!plan.slices.back().layers.IsLast()) ++steps_between_layers_;
      for (const SequenceReport& report : scheduler.Commit(plan, result)) {
        auto& tokens = said[report.request];
        for (const auto& part : {report.output.prompt, report.output.tokens}) {
          for (const SampledToken& token : part) {
            tokens.emplace_back(token.token, token.logprob, token.rank);
          }
        }
        EXPECT_EQ(report.output.error, "");
      }
    }
    return said;
  }

  void ExpectTheSame(const RunnerOptions& options) {
    Choices whole;
    const Said expected = Ask(*MakeRunner(options, 0, &whole));
    EXPECT_EQ(expected.size(), 6u);
    EXPECT_EQ(steps_between_layers_, 0);
    for (int groups = 2; groups <= std::min(3, model_.spec().num_layers); ++groups) {
      SCOPED_TRACE(groups);
      Choices parts;
      EXPECT_EQ(Ask(*MakeRunner(options, groups, &parts)), expected);
      EXPECT_GT(steps_between_layers_, 3);
      EXPECT_EQ(parts.seen(), whole.seen());
      EXPECT_EQ(Ask(*MakeRunner(options, groups)), expected) << "without an observer";
    }
  }

  GoldenModel model_{GetParam()};
  int steps_between_layers_ = 0;
};

TEST_P(LayerGroupsTest, SayTheSame) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) ExpectTheSame({.dtype = dtype});
}

TEST_P(LayerGroupsTest, SayTheSameOnADevice) {
  if (CudaDevices().empty()) GTEST_SKIP() << "there is no CUDA device";
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    ExpectTheSame({.cuda = 0, .dtype = dtype, .batch_invariant = true, .decoding_first = true});
  }
}

// One of three prompts ends between layers: the others go on with what is theirs.
TEST_P(LayerGroupsTest, WhoLeavesBetweenLayersTakesNothingAlong) {
  const auto alone = [&](const Request& request, uint64_t seed) {
    const auto runner = MakeRunner({.dtype = DType::kF32}, 2);
    InProcessWorker worker(*runner);
    const auto strategy = MakeAutoregressive();
    Scheduler scheduler(ConfigOf(worker.Info()), *strategy);
    scheduler.Add(1, request, seed);
    const StepPlan plan = scheduler.Plan();
    return worker.Execute(plan).slices.at(0).samples.at(0);
  };
  const auto runner = MakeRunner({.dtype = DType::kF32}, 2);
  InProcessWorker worker(*runner);
  const auto strategy = MakeAutoregressive();
  Scheduler scheduler(ConfigOf(worker.Info()), *strategy);
  const auto step = [&] {
    const StepPlan plan = scheduler.Plan();
    const StepResult result = worker.Execute(plan);
    EXPECT_EQ(result.error, "");
    scheduler.Commit(plan, result);
    return std::pair(plan, result);
  };
  scheduler.Add(1, MakeRequest(0, 3, 12), 1);
  step();
  for (const int length : {5, 6, 7}) scheduler.Add(length, MakeRequest(0, length, 4), 9);
  step();
  scheduler.End(6, FinishReason::kAbort);
  const auto [plan, result] = step();
  ASSERT_EQ(plan.slices.size(), 3u);
  for (const size_t nth : {1, 2}) {
    const int length = nth == 1 ? 5 : 7;
    EXPECT_EQ(plan.slices[nth].layers, (LayerGroup{.nth = 1, .of = 2}));
    ASSERT_EQ(std::ssize(plan.slices[nth].tokens), length);
    const SampledToken want = alone(MakeRequest(0, length, 4), 9);
    ASSERT_EQ(result.slices[nth].samples.size(), 1u);
    EXPECT_EQ(result.slices[nth].samples[0].token, want.token);
    EXPECT_EQ(result.slices[nth].samples[0].logprob, want.logprob);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, LayerGroupsTest, ::testing::ValuesIn(GoldensWithExperts()),
                         [](const auto& model) { return model.param; });

}  // namespace
}  // namespace sluice
