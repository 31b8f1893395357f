#include "plan/placement_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "arch/registry.h"
#include "base/error.h"
#include "checkpoint/config.h"
#include "plan/layout_cost.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;

ModelSpec SpecOf(const std::string& name) {
  return SpecFromConfig(
      HfConfig::FromFile(SLUICE_SOURCE_DIR "/configs/models/" + name + "/config.json"));
}

HardwareProfile Machine() {
  return {.name = "m",
          .gpu_memory = 80e9,
          .gpu_bandwidth = 3e12,
          .gpu_flops = 900e12,
          .peer_bandwidth = 450e9,
          .network_bandwidth = 50e9};
}

const StrategyResult& Find(const PlacementPlan& plan, PlacementStrategy strategy) {
  const auto found = std::find_if(
      plan.results.begin(), plan.results.end(),
      [&](const StrategyResult& result) { return result.layout.strategy == strategy; });
  EXPECT_NE(found, plan.results.end());
  return *found;
}

TEST(PlacementPlan, HoldsEveryWeightOnce) {
  for (const char* name : {"Qwen3-30B-A3B", "Mixtral-8x7B-v0.1", "DBRX", "OLMoE-1B-7B-0924"}) {
    const ModelSpec spec = SpecOf(name);
    const HardwareProfile machine = Machine();
    const auto parameters = static_cast<double>(ParameterCount(spec));
    double replicated = 0.0;  // that every GPU of a group holds whole
    for (const TensorRule& rule : spec.tensors) {
      if (rule.shard != ShardAxis::kReplicate) continue;
      const double layers = rule.layers == LayerSet::kNone ? 1 : spec.num_layers;
      replicated += layers * static_cast<double>(rule.shape.NumElements());
    }
    PlacementRequest request{.gpus = 4, .gpu_memory = 80e9};
    const auto weights = [&](const GpuLayout& layout) {
      return LayoutCost(spec, machine, request, layout).Memory(4, 128).weights / 2;
    };
    EXPECT_DOUBLE_EQ(weights({.dp = 4}), parameters) << name;
    EXPECT_NEAR(4 * weights({.tp = 4}), parameters + 3 * replicated, 1e-9 * parameters) << name;
    EXPECT_NEAR(4 * weights({.tp = 4, .spread = true}), parameters + 3 * replicated,
                1e-9 * parameters)
        << name;
    // One slot more for each layer, of the experts' own size.
    const double plain = weights({.dp = 4, .spread = true});
    const double more = weights({.dp = 4, .spread = true, .extra = 1});
    EXPECT_NEAR(more - plain, 3.0 * spec.num_layers * spec.hidden_size * spec.moe.expert_ffn,
                1e-9 * parameters)
        << name;
  }
}

TEST(PlacementPlan, HoldsKeysAndValuesOfItsSequences) {
  const ModelSpec spec = SpecOf("Qwen3-30B-A3B");  // 4 KV heads of 128 in 48 layers
  const HardwareProfile machine = Machine();
  const PlacementRequest request{.gpus = 8};
  const auto kv = [&](const GpuLayout& layout) {
    return LayoutCost(spec, machine, request, layout).Memory(64, 1000).kv;
  };
  const double one = 2.0 * 4 * 128 * 48 * 2 * 1000;  // of one sequence
  EXPECT_DOUBLE_EQ(kv({.dp = 8}), 8 * one);
  EXPECT_DOUBLE_EQ(kv({.tp = 2, .dp = 4}), 16 * one / 2);
  EXPECT_DOUBLE_EQ(kv({.tp = 8}), 64 * one / 4);  // two GPUs hold each head
  // A latent row is whole on every GPU of a group.
  const ModelSpec latent = SpecOf("DeepSeek-V3");
  EXPECT_DOUBLE_EQ(LayoutCost(latent, machine, request, {.tp = 8}).Memory(1, 1).kv, 61 * 576 * 2);
}

TEST(PlacementPlan, CommunicationIsThatOfRings) {
  const ModelSpec spec = SpecOf("Qwen3-30B-A3B");
  const HardwareProfile machine = Machine();
  PlacementRequest request{.gpus = 4, .peer_latency_s = 0.0};
  const LayoutCost tensor(spec, machine, request, {.tp = 4});
  const PlacementStep step = tensor.Decode(100, 1);
  // Two all-reduces a layer of 100 tokens of 2048 in bf16.
  const double bytes = 48 * 2 * (2.0 * 3 / 4) * 100 * 2048 * 2;
  EXPECT_DOUBLE_EQ(step.sent_bytes, bytes);
  EXPECT_DOUBLE_EQ(step.communication_s, bytes / 450e9);
  EXPECT_STREQ(tensor.Exchange(100), "all-reduce");
  // 25 tokens to 4 (1 - (3/4)^8) GPUs, of which a quarter is the own one; there and back.
  const LayoutCost spread(spec, machine, request, {.dp = 4, .spread = true});
  const double targets = 4 * (1 - std::pow(0.75, 8));
  EXPECT_NEAR(spread.Decode(100, 1).sent_bytes, 48 * 2 * 25 * targets * 0.75 * 4096, 1.0);
  EXPECT_STREQ(spread.Exchange(100), "all-to-all");
  // A copy of each model sends nothing.
  EXPECT_EQ(LayoutCost(spec, machine, request, {.dp = 4}).Decode(100, 1).communication_s, 0.0);
  // Between hosts the network is what counts, and latency when there is little to send.
  request = {.gpus = 4, .hosts = 2, .network_latency_s = 1e-3};
  const LayoutCost hosts(spec, machine, request, {.tp = 4});
  EXPECT_NEAR(hosts.Decode(1, 1).communication_s, 48 * 2 * 2e-3, 1e-4);
}

TEST(PlacementPlan, ReadsTheExpertsThatTokensNeed) {
  const ModelSpec spec = SpecOf("Qwen3-30B-A3B");
  const HardwareProfile machine = Machine();
  const PlacementRequest request{.gpus = 1};
  const LayoutCost one(spec, machine, request, {});
  EXPECT_NEAR(one.Decode(1, 0).memory_s,
              static_cast<double>(ActiveBytesPerToken(spec, DType::kBF16)) / 3e12, 1e-8);
  EXPECT_NEAR(one.Decode(1, 0).compute_s, one.Decode(1, 0).memory_s * 3e12 / 900e12, 1e-8);
  EXPECT_GT(one.Decode(1, 8192).memory_s, one.Decode(1, 0).memory_s);
  EXPECT_GT(one.Prefill().compute_s, one.Prefill().memory_s);
}

TEST(PlacementPlan, RecommendsWhatFits) {
  const ModelSpec spec = SpecOf("Mixtral-8x7B-v0.1");  // 93 GB in bf16
  const PlacementPlan one = PlanPlacement(spec, Machine(), {.gpus = 1, .gpu_memory = 72e9});
  EXPECT_FALSE(one.best);
  EXPECT_THAT(one.reason, HasSubstr("does not fit: short by"));
  const PlacementPlan four = PlanPlacement(spec, Machine(), {.gpus = 4, .gpu_memory = 72e9});
  ASSERT_TRUE(four.best);
  const StrategyResult& best = four.results[*four.best];
  EXPECT_LE(best.memory.total(), 72e9);
  EXPECT_FALSE(Find(four, PlacementStrategy::kData).fits());
  EXPECT_GT(Find(four, PlacementStrategy::kData).short_by, 20e9);
  for (const StrategyResult& result : four.results) {
    if (!result.fits()) continue;
    EXPECT_LE(result.decode.tokens_per_s, best.decode.tokens_per_s);
    EXPECT_GE(result.most_sequences, 64);
  }
  EXPECT_THAT(four.reason, HasSubstr("the next; 1 do not fit"));
  EXPECT_GE(four.queue_depth, 4);
  EXPECT_LE(four.queue_depth, 256);
}

TEST(PlacementPlan, LargestBatchAndContextAreAtTheEdge) {
  const ModelSpec spec = SpecOf("Qwen3-30B-A3B");
  for (const int gpus : {2, 4, 8}) {
    const PlacementRequest request{.gpus = gpus, .gpu_memory = 72e9};
    const HardwareProfile machine = Machine();
    for (const StrategyResult& result : PlanPlacement(spec, machine, request).results) {
      if (!result.fits()) continue;
      const LayoutCost cost(spec, machine, request, result.layout);
      const int groups = result.layout.dp;
      EXPECT_LE(cost.Memory(result.most_sequences, 4096).total(), 72e9);
      EXPECT_GT(cost.Memory(result.most_sequences + groups, 4096).total(), 72e9);
      EXPECT_LE(cost.Memory(groups, result.longest_context).total(), 72e9);
      EXPECT_GT(cost.Memory(groups, result.longest_context + 1).total(), 72e9);
    }
  }
}

TEST(PlacementPlan, SaysWhyALayoutCannotBe) {
  const PlacementPlan eight =
      PlanPlacement(SpecOf("Qwen1.5-MoE-A2.7B"), Machine(), {.gpus = 8, .gpu_memory = 72e9});
  EXPECT_EQ(Find(eight, PlacementStrategy::kExpert).refused,
            "60 experts do not divide over 8 GPUs");
  EXPECT_TRUE(Find(eight, PlacementStrategy::kReplicated).refused.empty());
  const PlacementPlan sixteen = PlanPlacement(SpecOf("Mixtral-8x7B-v0.1"), Machine(),
                                              {.gpus = 16, .hosts = 2, .gpu_memory = 72e9});
  EXPECT_THAT(Find(sixteen, PlacementStrategy::kReplicated).refused, HasSubstr("fewer than"));
  EXPECT_TRUE(Find(sixteen, PlacementStrategy::kTensor).refused.empty());
  const PlacementPlan three =
      PlanPlacement(SpecOf("Qwen3-30B-A3B"), Machine(), {.gpus = 3, .gpu_memory = 72e9});
  EXPECT_THAT(Find(three, PlacementStrategy::kTensor).refused, HasSubstr("32 heads"));
}

TEST(PlacementPlan, ReplicasPayWhenExpertsAreUneven) {
  const ModelSpec spec = SpecOf("Qwen3-30B-A3B");
  const auto faster = [&](double imbalance) {
    const PlacementPlan plan = PlanPlacement(
        spec, Machine(),
        {.gpus = 8, .gpu_memory = 72e9, .imbalance = imbalance, .replicated_imbalance = 1.05});
    return Find(plan, PlacementStrategy::kReplicated).prefill.tokens_per_s /
           Find(plan, PlacementStrategy::kDataExpert).prefill.tokens_per_s;
  };
  EXPECT_GT(faster(2.0), 1.05);
  EXPECT_LT(faster(1.0), 1.0);
}

TEST(PlacementPlan, RefusesWhatCannotBeAsked) {
  const ModelSpec spec = SpecOf("Mixtral-8x7B-v0.1");
  EXPECT_THROW(PlanPlacement(spec, Machine(), {.gpus = 6, .hosts = 4}), Error);
  EXPECT_THROW(PlanPlacement(spec, Machine(), {.gpus = 0}), Error);
  HardwareProfile machine = Machine();
  machine.network_bandwidth.reset();
  EXPECT_NO_THROW(PlanPlacement(spec, machine, {.gpus = 8}));
  EXPECT_THROW(PlanPlacement(spec, machine, {.gpus = 8, .hosts = 2}), Error);
  machine.peer_bandwidth.reset();
  EXPECT_NO_THROW(PlanPlacement(spec, machine, {.gpus = 1}));
  EXPECT_THROW(PlanPlacement(spec, machine, {.gpus = 2}), Error);
}

}  // namespace
}  // namespace sluice
