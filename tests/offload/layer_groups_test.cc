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
#include "trace/routing_source.h"

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

  // Of a third of the experts' slots, or without `groups` one for each.
  std::unique_ptr<ModelRunner> MakeRunner(RunnerOptions options, int groups) const {
    options.max_step_rows = 64;
    if (groups > 0) {
      options.expert_slots = static_cast<int>(model_.NumExperts() / 3);
      options.offload.host_slots = static_cast<int>(model_.NumExperts());
      options.offload.prefill_layer_groups = groups;
    }
    const ModelSpec& spec = model_.spec();
    return model_.MakeRunner(options,
                             ParseRoutingSource(routing_, {.num_layers = spec.num_layers,
                                                           .num_experts = spec.moe.num_experts,
                                                           .top_k = spec.moe.top_k}));
  }

  SchedulerConfig ConfigOf(const WorkerInfo& info) const {
    return {.max_num_seqs = 6,
            .max_num_batched_tokens = 24,
            .max_model_len = info.max_model_len,
            .page_size = info.page_size,
            .num_pages = info.num_pages,
            .prefill_layer_groups = info.prefill_layer_groups,
            // Routing that is drawn for each sequence makes other keys and values of the same text.
            .enable_prefix_caching = routing_ == "model"};
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

  void ExpectTheSame(RunnerOptions options) {
    Choices whole;
    options.observer = &whole;
    const Said expected = Ask(*MakeRunner(options, 0));
    EXPECT_EQ(expected.size(), 6u);
    EXPECT_EQ(steps_between_layers_, 0);
    for (int groups = 2; groups <= std::min(3, model_.spec().num_layers); ++groups) {
      SCOPED_TRACE(groups);
      Choices parts;
      options.observer = &parts;
      EXPECT_EQ(Ask(*MakeRunner(options, groups)), expected);
      EXPECT_GT(steps_between_layers_, 3);
      EXPECT_EQ(parts.seen(), whole.seen());
      options.observer = nullptr;
      EXPECT_EQ(Ask(*MakeRunner(options, groups)), expected) << "without an observer";
    }
  }

  // Of a sequence that decodes and three prompts, one ends between layers: the others go on with
  // what is theirs.
  void ExpectOthersGoOn(const RunnerOptions& options, RequestId leaves) const {
    const auto runner = MakeRunner(options, 2);
    InProcessWorker worker(*runner);
    const auto strategy = MakeAutoregressive();
    Scheduler scheduler(ConfigOf(worker.Info()), *strategy);
    const auto step = [&] {
      StepPlan plan = scheduler.Plan();
      StepResult result = worker.Execute(plan);
      EXPECT_EQ(result.error, "");
      scheduler.Commit(plan, result);
      return std::pair(std::move(plan), std::move(result));
    };
    scheduler.Add(1, MakeRequest(0, 3, 12), 1);
    step();
    for (const int length : {5, 6, 7}) scheduler.Add(length, MakeRequest(0, length, 4), 9);
    step();
    EXPECT_EQ(scheduler.End(leaves, FinishReason::kAbort).size(), 1u);
    const auto [plan, result] = step();
    EXPECT_EQ(plan.slices.size(), 3u);
    for (size_t nth = 0; nth < plan.slices.size(); ++nth) {
      if (plan.slices[nth].sequence == 1) continue;
      EXPECT_EQ(plan.slices[nth].layers, (LayerGroup{.nth = 1, .of = 2}));
      const int length = static_cast<int>(plan.slices[nth].tokens.size());
      Scheduler alone(ConfigOf(worker.Info()), *strategy);
      alone.Add(1, MakeRequest(0, length, 4), 9);
      const SampledToken want = worker.Execute(alone.Plan()).slices.at(0).samples.at(0);
      ASSERT_EQ(result.slices[nth].samples.size(), 1u);
      EXPECT_EQ(result.slices[nth].samples[0].token, want.token);
      EXPECT_EQ(result.slices[nth].samples[0].logprob, want.logprob);
    }
  }

  GoldenModel model_{GetParam()};
  std::string routing_ = "model";
  int steps_between_layers_ = 0;
};

constexpr DType kDTypes[] = {DType::kF32, DType::kBF16};

RunnerOptions OnADevice(DType dtype) {
  return {.cuda = 0, .dtype = dtype, .batch_invariant = true, .decoding_first = true};
}

TEST_P(LayerGroupsTest, SayTheSame) {
  for (const DType dtype : kDTypes) ExpectTheSame({.dtype = dtype});
}

TEST_P(LayerGroupsTest, SayTheSameInPartsAndWithTheCpu) {
  ExpectTheSame({.offload = {.streaming = {.batch_groups = 3}}});
  ExpectTheSame({.offload = {.streaming = {.cpu_experts = true}}});
}

TEST_P(LayerGroupsTest, SayTheSameWhereRoutingIsGiven) {
  routing_ = "markov:0.8";
  ExpectTheSame({.dtype = DType::kBF16});
}

TEST_P(LayerGroupsTest, SayTheSameOnADevice) {
  if (CudaDevices().empty()) GTEST_SKIP() << "there is no CUDA device";
  for (const DType dtype : kDTypes) ExpectTheSame(OnADevice(dtype));
  routing_ = "markov:0.8";
  ExpectTheSame(OnADevice(DType::kBF16));
}

TEST_P(LayerGroupsTest, WhoLeavesBetweenLayersTakesNothingAlong) {
  for (const RequestId leaves : {1, 5, 6, 7}) {
    SCOPED_TRACE(leaves);
    ExpectOthersGoOn({.dtype = DType::kF32}, leaves);
    if (!CudaDevices().empty()) ExpectOthersGoOn(OnADevice(DType::kF32), leaves);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, LayerGroupsTest, ::testing::ValuesIn(GoldensWithExperts()),
                         [](const auto& model) { return model.param; });

}  // namespace
}  // namespace sluice
