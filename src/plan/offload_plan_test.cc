#include "plan/offload_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "arch/registry.h"
#include "base/error.h"
#include "checkpoint/config.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;

ModelSpec SpecOf(const std::string& name) {
  return SpecFromConfig(
      HfConfig::FromFile(SLUICE_SOURCE_DIR "/configs/models/" + name + "/config.json"));
}

HardwareProfile Machine() {
  return {.name = "m",
          .gpu_memory = 24e9,
          .gpu_bandwidth = 1e12,
          .gpu_flops = 100e12,
          .host_memory = 128e9,
          .host_bandwidth = 100e9,
          .link_bandwidth = 25e9};
}

// Four layers of 10 experts of 1 GB, one chosen, 1 GB beside them; a sequence takes 1 GB.
ModelFootprint Model() {
  return {.moe_layers = 4,
          .num_experts = 10,
          .top_k = 1,
          .expert_bytes = 1e9,
          .resident_bytes = 1e9,
          .resident_read_bytes = 1e9,
          .kv_bytes = 1e6,
          .sequence_bytes = 0.0,
          .token_flops = 1e9};
}

TEST(OffloadPlan, FootprintCountsAllWeightsOnce) {
  for (const char* name : {"Qwen3-30B-A3B", "Qwen1.5-MoE-A2.7B", "Mixtral-8x7B-v0.1", "DBRX",
                           "DeepSeek-V3", "OLMoE-1B-7B-0924"}) {
    const ModelSpec spec = SpecOf(name);
    const ModelFootprint model = FootprintOf(spec, 8.0, 16.0, 16.0);
    const double experts = model.expert_bytes * model.num_experts * model.moe_layers;
    EXPECT_DOUBLE_EQ(experts + model.resident_bytes / 2, static_cast<double>(ParameterCount(spec)))
        << name;
    const ModelFootprint bf16 = FootprintOf(spec, 16.0, 16.0, 16.0);
    const double row = spec.tie_embeddings ? 0.0 : 2.0 * spec.hidden_size;  // of the embedding
    EXPECT_DOUBLE_EQ(
        bf16.resident_read_bytes + bf16.expert_bytes * bf16.top_k * bf16.moe_layers + row,
        static_cast<double>(ActiveBytesPerToken(spec, DType::kBF16)))
        << name;
  }
  // 48 layers of keys and values, 4 heads of 128 each; three matrices of 2048 x 768.
  const ModelFootprint model = FootprintOf(SpecOf("Qwen3-30B-A3B"), 4.5, 16.0, 16.0);
  EXPECT_DOUBLE_EQ(model.kv_bytes, 48 * 2 * 4 * 128 * 2);
  EXPECT_DOUBLE_EQ(model.expert_bytes, 3 * 2048 * 768 * 4.5 / 8);
  // One row of 512 + 64 a position and layer.
  EXPECT_DOUBLE_EQ(FootprintOf(SpecOf("DeepSeek-V3"), 8, 8, 16).kv_bytes, 61 * 576 * 2);
}

TEST(OffloadPlan, AStepTakesAsLongAsItsSlowestPath) {
  const OffloadRequest request{.vram_budget = 24e9, .ram_budget = 30e9, .context = 1000};
  HardwareProfile machine = Machine();
  machine.disk_bandwidth = 5e9;
  const OffloadStep step = CostStep(Model(), machine, request, 2, 10);
  EXPECT_DOUBLE_EQ(step.distinct_experts, 10 * (1 - 0.9 * 0.9));
  EXPECT_DOUBLE_EQ(step.hit_rate, 0.25);
  const double read = 4 * 1.9 * 1e9;
  const double moved = read * 0.75;
  EXPECT_DOUBLE_EQ(step.link_s, moved / 25e9);
  EXPECT_DOUBLE_EQ(step.host_s, moved / 100e9);
  EXPECT_DOUBLE_EQ(step.disk_s, moved * 0.25 / 5e9);  // 10 of 40 experts are not in host memory
  EXPECT_DOUBLE_EQ(step.gpu_memory_s, (1e9 + read + 2e9) / 1e12);
  EXPECT_DOUBLE_EQ(step.gpu_compute_s, 2e9 / 100e12);
  EXPECT_DOUBLE_EQ(step.step_s, step.disk_s);
  EXPECT_STREQ(step.bound, "disk");
  EXPECT_DOUBLE_EQ(step.tokens_per_s, 2 / step.disk_s);
  machine.disk_bandwidth = 100e9;
  EXPECT_STREQ(CostStep(Model(), machine, request, 2, 10).bound, "link");
  EXPECT_STREQ(CostStep(Model(), machine, request, 2, 40).bound, "GPU memory");
}

TEST(OffloadPlan, TakesTheHitRateOfATrace) {
  OffloadRequest request{.vram_budget = 24e9, .ram_budget = 60e9, .context = 1000};
  request.hit_rates = CacheCurve{.slots = {0, 10, 40}, .hit_rates = {0.0, 0.8, 0.9}};
  EXPECT_DOUBLE_EQ(CostStep(Model(), Machine(), request, 1, 10).hit_rate, 0.8);
  const OffloadStep step = CostStep(Model(), Machine(), request, 1, 25);
  EXPECT_DOUBLE_EQ(step.hit_rate, 0.85);
  EXPECT_NEAR(step.link_s, 4e9 * 0.15 / 25e9, 1e-12);
}

// Every n with every size of cache that fits beside it, memory counted anew.
OffloadStep BestBySearch(const ModelFootprint& model, const HardwareProfile& machine,
                         const OffloadRequest& request) {
  OffloadStep best;
  for (int n = 1; n <= request.max_sequences; ++n) {
    for (int cached = 0; cached <= model.moe_layers * model.num_experts; ++cached) {
      const double bytes = model.resident_bytes + (cached + 2) * model.expert_bytes +
                           n * (request.context * model.kv_bytes + model.sequence_bytes);
      if (bytes > request.vram_budget) break;
      const OffloadStep step = CostStep(model, machine, request, n, cached);
      if (request.max_step_s && step.beside_prompt_s > *request.max_step_s) continue;
      if (best.sequences == 0 || step.tokens_per_s > best.tokens_per_s * (1 + 1e-9)) best = step;
    }
  }
  return best;
}

TEST(OffloadPlan, SolverAgreesWithExhaustiveSearch) {
  std::mt19937 random(11);
  const auto between = [&](double low, double high) {
    return low * std::pow(high / low, std::uniform_real_distribution<>(0, 1)(random));
  };
  int solved = 0;
  int refused = 0;
  std::vector<int> chosen;
  while (solved < 200) {
    const int experts = 4 + static_cast<int>(random() % 28);
    const ModelFootprint model{.moe_layers = 1 + static_cast<int>(random() % 8),
                               .num_experts = experts,
                               .top_k = 1 + static_cast<int>(random() % 4),
                               .expert_bytes = between(1e6, 300e6),
                               .resident_bytes = between(1e8, 1e10),
                               .resident_read_bytes = between(1e8, 1e10),
                               .kv_bytes = between(1e4, 1e6),
                               .sequence_bytes = between(1e4, 1e7),
                               .token_flops = between(1e9, 1e11),
                               .expert_flops = between(1e6, 1e9)};
    const HardwareProfile machine{.name = "random",
                                  .gpu_bandwidth = between(2e11, 5e12),
                                  .gpu_flops = between(1e13, 1e15),
                                  .host_bandwidth = between(2e10, 6e11),
                                  .link_bandwidth = between(4e9, 6e10),
                                  .disk_bandwidth = between(1e9, 1e10)};
    OffloadRequest request{.vram_budget = between(5e8, 2e10),
                           .ram_budget = between(1e9, 1e11),
                           .context = 128 << random() % 6,
                           .max_sequences = 96};
    if (random() % 2 == 0) request.max_step_s = between(5e-3, 2.0);
    if (random() % 2 == 0) request.prompt_share = between(0.05, 1.0);
    if (random() % 2 == 0) request.cpu_flops = between(1e11, 1e13);
    const OffloadStep best = BestBySearch(model, machine, request);
    if (best.sequences == 0) {
      EXPECT_THROW(SolveOffload(model, machine, request), Error);
      ++refused;
      continue;
    }
    const OffloadPlan plan = SolveOffload(model, machine, request);
    ASSERT_EQ(plan.best.sequences, best.sequences) << solved;
    ASSERT_NEAR(plan.best.tokens_per_s, best.tokens_per_s, 1e-9 * best.tokens_per_s);
    chosen.push_back(best.sequences);
    ++solved;
  }
  // The cases are of every kind: nothing fits, one sequence, some, as many as allowed.
  EXPECT_GT(refused, 10);
  EXPECT_GT(std::count(chosen.begin(), chosen.end(), 1), 2);
  EXPECT_GT(std::count(chosen.begin(), chosen.end(), 96), 10);
  EXPECT_GT(std::count_if(chosen.begin(), chosen.end(), [](int n) { return n > 1 && n < 96; }), 40);
}

std::string MessageOf(const OffloadRequest& request, const HardwareProfile& machine) {
  try {
    SolveOffload(Model(), machine, request);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(OffloadPlan, SaysWhatDoesNotFitAndWhatIsMissing) {
  OffloadRequest request{.vram_budget = 3.5e9, .ram_budget = 60e9, .context = 1000};
  // 1 GB of weights, two slots of 1 GB, one sequence of 1 GB.
  EXPECT_THAT(MessageOf(request, Machine()), HasSubstr("short by 500 MB of GPU memory"));
  request.vram_budget = 4e9;
  EXPECT_EQ(MessageOf(request, Machine()), "");
  request.max_step_s = 1e-3;
  EXPECT_THAT(MessageOf(request, Machine()),
              HasSubstr("takes 160.0 ms, bound by the link; the limit is 1.0 ms: raise it, or the "
                        "budget of GPU memory, or add --cpu-experts"));
  request.ram_budget = 30e9;
  EXPECT_THAT(MessageOf(request, Machine()), HasSubstr("has no disk.bandwidth_bytes_per_s"));
  HardwareProfile machine = Machine();
  machine.link_bandwidth.reset();
  machine.gpu_flops.reset();
  EXPECT_THAT(MessageOf(request, machine),
              HasSubstr("gpu.bf16_flops_per_s, link.bandwidth_bytes_per_s"));
  EXPECT_THROW(
      FootprintOf(ModelSpec{.family = "dense", .num_layers = 1, .ffn = {FfnKind::kDense}}, 8, 8, 8),
      Error);
}

TEST(OffloadPlan, AStepBesideAPromptNeedsEveryExpertInAShareOfTheLayers) {
  OffloadRequest request{.vram_budget = 24e9, .ram_budget = 60e9, .prompt_share = 0.25};
  const OffloadStep step = CostStep(Model(), Machine(), request, 1, 10);
  // One of 10 experts in each of four layers, or all 10 in one of them; 30 of 40 are missing.
  EXPECT_NEAR(step.step_s, 4e9 * 0.75 / 25e9, 1e-12);
  EXPECT_NEAR(step.beside_prompt_s, 13e9 * 0.75 / 25e9, 1e-12);
  EXPECT_NEAR(step.tokens_per_s, 1 / step.step_s, 1e-9);
  request.prompt_share = 1.0;
  EXPECT_NEAR(CostStep(Model(), Machine(), request, 1, 10).beside_prompt_s, 40e9 * 0.75 / 25e9,
              1e-12);
  request.max_step_s = 0.4;
  EXPECT_EQ(LayerGroupsWithin(Model(), Machine(), request, step, 4, 1, 8), 4);
  EXPECT_EQ(LayerGroupsWithin(Model(), Machine(), request, step, 4, 5, 8), 5);
  // Of five layers, one of them without experts, four groups have up to two.
  EXPECT_EQ(LayerGroupsWithin(Model(), Machine(), request, step, 5, 1, 8), 5);
  EXPECT_DOUBLE_EQ(PromptShare(Model(), 5, 4), 0.5);
  EXPECT_DOUBLE_EQ(PromptShare(Model(), 5, 1), 1.0);
  request.max_step_s = 0.3;
  EXPECT_EQ(LayerGroupsWithin(Model(), Machine(), request, step, 4, 2, 4), 4);
}

TEST(OffloadPlan, TheCpuAndTheLinkShareOutWhatIsMissing) {
  ModelFootprint model = Model();
  model.expert_flops = 1e9;
  OffloadRequest request{.vram_budget = 24e9, .ram_budget = 60e9, .prompt_share = 0.25};
  const double missing = 4 * 0.75;  // of one sequence
  // The CPU reads an expert in 10 ms, the link in 40: in 40 ms five are done, but for host memory,
  // which gives both three quarters of 100 GB/s.
  request.cpu_flops = 1e12;
  OffloadStep step = CostStep(model, Machine(), request, 1, 10);
  EXPECT_NEAR(step.link_s, missing * 0.008, 1e-12);
  EXPECT_NEAR(step.host_s, missing * 1e9 / 75e9, 1e-12);
  EXPECT_STREQ(step.bound, "host memory");
  // A prompt's ten experts of one layer come over the link.
  EXPECT_NEAR(step.beside_prompt_s, 0.75 * (3 * 0.008 + 10 * 0.04), 1e-12);
  EXPECT_STREQ(step.beside_prompt_bound, "link");
  // Products take longer than reading: 120 ms for a row of each.
  request.cpu_flops = 1e9 / 0.12;
  step = CostStep(model, Machine(), request, 1, 10);
  EXPECT_NEAR(step.link_s, missing * 0.03, 1e-12);
  EXPECT_STREQ(step.bound, "link");
  // Where host memory hardly gives more than the link takes, both together are no faster.
  HardwareProfile narrow = Machine();
  narrow.host_bandwidth = 30e9;
  request.cpu_flops = 1e12;
  EXPECT_NEAR(CostStep(model, narrow, request, 1, 10).step_s, missing * 0.04, 1e-12);
  request.cpu_flops = 1e9 / 0.12;
  // The more rows, the less of it is the CPU's.
  const OffloadStep many = CostStep(model, Machine(), request, 100, 10);
  const double rows = 100 / many.distinct_experts;
  EXPECT_NEAR(many.link_s, 4 * many.distinct_experts * 0.75 / (1 / 0.04 + 1 / (rows * 0.12)), 1e-9);
}

TEST(OffloadPlan, SaysFromWhereTheLinkIsHidden) {
  ModelFootprint model = Model();
  model.token_flops = 1e13;  // 0.1 s a sequence; the experts that miss take 7.6 s at most
  HardwareProfile machine = Machine();
  machine.link_bandwidth = 2.5e9;
  const OffloadRequest request{.vram_budget = 25e9, .ram_budget = 60e9, .context = 1};
  const OffloadPlan plan = SolveOffload(model, machine, request);
  ASSERT_TRUE(plan.hides_link);
  const int n = *plan.hides_link;
  const auto bound = [&](int sequences) {
    return std::string(
        CostStep(model, machine, request, sequences, CacheCapacity(model, request, sequences))
            .bound);
  };
  EXPECT_EQ(bound(n), "GPU compute");
  ASSERT_GT(n, 1);
  EXPECT_EQ(bound(n - 1), "link");
  EXPECT_EQ(plan.one.sequences, 1);
  EXPECT_LT(plan.one.tokens_per_s, plan.best.tokens_per_s);
}

TEST(OffloadPlan, WhatIsReadForTheCpuIsNotHidden) {
  OffloadRequest request{.vram_budget = 25e9, .ram_budget = 60e9, .context = 1, .max_sequences = 8};
  request.cpu_flops = 1e15;
  const OffloadPlan plan = SolveOffload(Model(), Machine(), request);
  EXPECT_STREQ(plan.best.bound, "host memory");
  EXPECT_FALSE(plan.hides_link);
}

TEST(OffloadPlan, WhatIsReadFromDiskIsNotHidden) {
  HardwareProfile machine = Machine();
  machine.disk_bandwidth = 1e9;
  const OffloadPlan plan =
      SolveOffload(Model(), machine,
                   {.vram_budget = 25e9, .ram_budget = 30e9, .context = 1, .max_sequences = 8});
  EXPECT_STREQ(plan.best.bound, "disk");
  EXPECT_FALSE(plan.hides_link);
}

TEST(OffloadPlan, ACacheOfWhatIsAlikeHitsByItsShare) {
  EXPECT_DOUBLE_EQ(AlikeHitRate(30, 120, 0.5, false), 0.25);
  EXPECT_DOUBLE_EQ(AlikeHitRate(30, 120, 1.0, false), 0.25);
  EXPECT_DOUBLE_EQ(AlikeHitRate(120, 120, 1.0, true), 1.0);
}

TEST(OffloadPlan, LruHitsNothingOfLayersThatComeRoundAndRound) {
  EXPECT_DOUBLE_EQ(AlikeHitRate(119, 120, 1.0, true), 0.0);
  EXPECT_DOUBLE_EQ(AlikeHitRate(30, 120, 0.5, true), 0.0);
  // Two runs of a layer bring 1 - 0.9^2 = 19 % of all experts; three bring more than the quarter.
  EXPECT_NEAR(AlikeHitRate(30, 120, 0.1, true), 0.19, 1e-12);
}

// Draws as the formula assumes, through caches as an engine has them.
TEST(OffloadPlan, HitRatesAreThoseOfCachesUnderUniformRouting) {
  constexpr int kLayers = 6, kExpertsALayer = 16, kSteps = 4000;
  for (const double chance : {0.1, 0.25, 0.6}) {
    std::mt19937 random(7);
    ExpertAccesses accesses{.num_keys = kLayers * kExpertsALayer};
    for (int step = 0; step < kSteps; ++step) {
      for (int key = 0; key < accesses.num_keys; ++key) {
        if (std::bernoulli_distribution(chance)(random)) accesses.keys.push_back(key);
      }
    }
    const int slots = accesses.num_keys / 3;
    const double lru = SimulateCache(accesses, slots, CachePolicy::kLru).HitRate();
    const double said = AlikeHitRate(slots, accesses.num_keys, chance, true);
    // Runs are whole in the formula; the cache is through between two of them.
    const double one_more = 1.0 - (1.0 - said) * (1.0 - chance);
    EXPECT_GE(lru, said - 0.02) << chance;
    EXPECT_LE(lru, one_more + 0.02) << chance;
    // What is used soonest is not known; the share of a fixed set is what its order can rely on.
    std::vector<bool> kept(accesses.num_keys);
    for (int key = 0; key < slots; ++key) kept[key] = true;
    const auto hits = std::count_if(accesses.keys.begin(), accesses.keys.end(),
                                    [&](uint32_t key) { return kept[key]; });
    EXPECT_NEAR(static_cast<double>(hits) / static_cast<double>(accesses.keys.size()),
                AlikeHitRate(slots, accesses.num_keys, chance, false), 0.01);
  }
}

TEST(OffloadPlan, SlotsMayBeAnEnginesOwnCount) {
  OffloadRequest request{.vram_budget = 1.0, .ram_budget = 100e9, .context = 1000};
  request.slots = [](int n) { return n <= 3 ? 12 - n : -1; };
  EXPECT_EQ(CacheCapacity(Model(), request, 2), 12 - 2 - kTransferSlots);
  const OffloadPlan plan = SolveOffload(Model(), Machine(), request);
  EXPECT_EQ(plan.memory_limit, 3);
  EXPECT_EQ(plan.best.cached_experts, CacheCapacity(Model(), request, plan.best.sequences));
  request.slots = [](int) { return 40; };  // all of them
  EXPECT_EQ(CacheCapacity(Model(), request, 1), 40);
}

}  // namespace
}  // namespace sluice
