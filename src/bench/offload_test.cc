#include "bench/offload.h"

#include <gtest/gtest.h>

#include <memory>

#include "arch/testing.h"
#include "checkpoint/weight_source.h"
#include "trace/routing_source.h"

namespace sluice {
namespace {

constexpr OffloadBenchOptions kOptions{
    .prompt_tokens = 3, .warmup_tokens = 2, .output_tokens = 6, .seed = 1};

class OffloadBenchTest : public ::testing::Test {
 protected:
  std::unique_ptr<ModelRunner> MakeRunner(int slots, int host_slots, StreamingOptions streaming) {
    return std::make_unique<ModelRunner>(spec_, source_,
                                         RunnerOptions{.num_threads = 2,
                                                       .num_pages = 8,
                                                       .max_model_len = 64,
                                                       .expert_slots = slots,
                                                       .offload = {.host_slots = host_slots,
                                                                   .streaming = streaming,
                                                                   .link = {.latency_s = 1e-5}}},
                                         std::make_unique<ModelRouting>());
  }
  uint64_t SlotBytes() const { return ExpertLayoutOf(spec_, DType::kF32).SlotBytes(); }

  ModelSpec spec_ = TinyMoeSpec();  // two layers of eight experts, two chosen
  DummySource source_{ListTensors(spec_), DType::kF32, 1};
};

TEST_F(OffloadBenchTest, CountsTheTimedStepsAlone) {
  const auto runner = MakeRunner(4, 16, {.policy = OffloadPolicy::kOnDemand});
  const OffloadRun run = RunOffload(*runner, 2, kOptions);
  ASSERT_EQ(run.step_s.size(), 6u);
  ASSERT_EQ(run.tokens.size(), 2u);
  EXPECT_EQ(static_cast<int>(run.tokens[0].size()), kOptions.Positions());
  ASSERT_EQ(run.layers.size(), 2u);
  uint64_t requests = 0;
  uint64_t misses = 0;
  for (const LayerOffloadStats& layer : run.layers) {
    EXPECT_EQ(layer.requests, layer.hits + layer.misses);
    // Two of two tokens' experts a step, distinct ones.
    EXPECT_GE(layer.requests, 6u * 2);
    EXPECT_LE(layer.requests, 6u * 4);
    requests += layer.requests;
    misses += layer.misses;
  }
  EXPECT_GT(misses, 0u);
  EXPECT_LT(requests, runner->offload_stats()->Total().requests);
  EXPECT_EQ(run.link.bytes, misses * SlotBytes());  // nothing is brought ahead on demand
}

TEST_F(OffloadBenchTest, TheSameTokensHoweverExpertsCome) {
  const OffloadRun resident = RunOffload(*MakeRunner(0, 0, {}), 2, kOptions);
  EXPECT_TRUE(resident.layers.empty());
  EXPECT_EQ(resident.link.bytes, 0u);
  for (const OffloadPolicy policy :
       {OffloadPolicy::kPipeline, OffloadPolicy::kOnDemand, OffloadPolicy::kSerial}) {
    const OffloadRun run = RunOffload(*MakeRunner(3, 16, {.policy = policy}), 2, kOptions);
    EXPECT_EQ(FirstDifference(resident, run), "");
  }
  OffloadRun other = resident;
  other.tokens[1].back() += 1;
  EXPECT_EQ(FirstDifference(resident, other),
            "sequence 1 from token " + std::to_string(kOptions.Positions() - 1) + " on");
  other.tokens.resize(1);
  EXPECT_EQ(FirstDifference(resident, other), "");
}

TEST(OffloadBound, IsTheLongestOfTheThreePaths) {
  const ModelFootprint model{.moe_layers = 2,
                             .num_experts = 8,
                             .top_k = 2,
                             .expert_bytes = 1e6,
                             .resident_bytes = 9e6,
                             .resident_read_bytes = 5e6,
                             .kv_bytes = 100.0};
  HardwareProfile machine{.gpu_bandwidth = 1e9, .host_bandwidth = 5e8, .link_bandwidth = 1e8};
  OffloadRun run{.sequences = 4, .step_s = {0.1, 0.3}};
  // Ten needed, four of them in slots, one of these since it was foretold; one on the CPU.
  run.layers = {{.requests = 10, .hits = 4, .misses = 5, .cpu = 1, .prefetch_used = 1}};
  ByteBound bound = BoundOf(run, model, machine, 50);
  EXPECT_DOUBLE_EQ(bound.link_s, (5 + 1) / 2.0 * 1e6 / 1e8);
  EXPECT_DOUBLE_EQ(bound.host_s, (5 + 1 + 1) / 2.0 * 1e6 / 5e8);
  EXPECT_DOUBLE_EQ(bound.gpu_s, (5e6 + 9 / 2.0 * 1e6 + 4 * 50 * 100) / 1e9);
  EXPECT_DOUBLE_EQ(bound.step_s, bound.link_s);
  EXPECT_STREQ(bound.bound, "link");
  const boost::json::object row = ToJson(run, bound);
  EXPECT_DOUBLE_EQ(row.at("tokens_per_s").as_double(), 4 * 2 / 0.4);
  EXPECT_DOUBLE_EQ(row.at("bound_tokens_per_s").as_double(), 4 / 0.03);
  EXPECT_DOUBLE_EQ(row.at("hit_rate").as_double(), 0.3);
  EXPECT_DOUBLE_EQ(row.at("ready_rate").as_double(), 0.4);
  machine.link_bandwidth = 1e10;
  bound = BoundOf(run, model, machine, 50);
  EXPECT_STREQ(bound.bound, "GPU memory");
  // Where all are resident as many are read as so many tokens are expected to choose.
  run.layers.clear();
  EXPECT_DOUBLE_EQ(BoundOf(run, model, machine, 50).gpu_s,
                   (5e6 + 2 * 8 * (1 - 0.75 * 0.75 * 0.75 * 0.75) * 1e6 + 2e4) / 1e9);
}

}  // namespace
}  // namespace sluice
