// Every golden model with experts, with every expert in a slot and with fewer slots than experts:
// whatever brings them, in whatever order they come, bit for bit the same.

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "device/cuda_stream.h"
#include "golden_model.h"

namespace sluice {
namespace {

// Slow enough that compute waits for it, and everything is still quick.
constexpr SimulatedLink kSlowLink{.bytes_per_s = 1e9, .latency_s = 20e-6};

struct Way {
  const char* name;
  double slots;       // share of all experts; at least two have one
  double host_slots;  // share in host memory; 0 = slots are read from the files
  OffloadOptions offload;
};

std::vector<Way> Ways() {
  using enum OffloadPolicy;
  return {
      {"two slots", 0, 0, {}},
      {"two slots over a link", 0, 1, {.link = kSlowLink}},
      {"two slots, everything waits",
       0,
       1,
       {.streaming = {.policy = kSerial}, .eviction = EvictionPolicy::kLru}},
      {"few slots from the files, no forecast", 0.2, 0, {.streaming = {.prefetch = false}}},
      {"few slots over a link", 0.2, 1, {.link = kSlowLink}},
      {"few slots and a part of the experts in host memory", 0.2, 0.5, {.link = kSlowLink}},
      {"few slots, in three parts",
       0.3,
       0.5,
       {.streaming = {.batch_groups = 3}, .link = kSlowLink}},
      {"two slots, in three parts", 0, 0, {.streaming = {.batch_groups = 3}}},
      {"few slots, in the order of ids", 0.3, 1, {.streaming = {.ready_first = false}}},
      {"few slots on demand",
       0.3,
       1,
       {.streaming = {.policy = kOnDemand}, .eviction = EvictionPolicy::kLru, .link = kSlowLink}},
      {"few slots on demand from the files",
       0.3,
       0,
       {.streaming = {.policy = kOnDemand}, .eviction = EvictionPolicy::kLru}},
      {"few slots, whole layers", 0.3, 1, {.streaming = {.policy = kSerial}, .link = kSlowLink}},
      {"few slots, and the CPU computes some of the rest",
       0.2,
       1,
       {.streaming = {.cpu_experts = true}, .link = kSlowLink}},
      {"two slots, and the CPU computes some of those in host memory",
       0,
       0.5,
       {.streaming = {.cpu_experts = true}, .link = kSlowLink}},
      {"many slots", 0.8, 0.9, {.eviction = EvictionPolicy::kLfu, .link = kSlowLink}},
      {"many slots, no forecast", 0.8, 1, {.streaming = {.prefetch = false}, .link = kSlowLink}},
  };
}

class OffloadBitsTest : public ::testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<ModelRunner> MakeRunner(RunnerOptions options, const Way& way) const {
    const double all = model_.NumExperts();
    options.expert_slots = std::max(2, static_cast<int>(way.slots * all));
    options.offload = way.offload;
    if (way.host_slots > 0) {
      options.offload.host_slots = std::max(2, static_cast<int>(way.host_slots * all));
    }
    return model_.MakeRunner(options);
  }

  // All that a runner says: every row's logits, in a large step and in several, then greedy text.
  struct Said {
    std::vector<float> whole;
    std::vector<float> chunks;
    std::vector<TokenId> text;
  };
  Said Ask(ModelRunner& runner) const {
    const Golden& golden = model_.golden();
    return {ValuesOf(ForwardSequences(runner, model_.rows())),
            ValuesOf(ForwardSequences(runner, model_.rows(), {.chunk = 9})),
            GreedyContinuation(runner, golden.row(0), static_cast<int>(golden.greedy_ids.size()))};
  }

  // Each of `ways` says what a runner with these options does that has a slot for every expert.
  void ExpectTheSame(const RunnerOptions& options, const std::vector<Way>& ways) const {
    const Said expected = Ask(*model_.MakeRunner(options));
    for (const Way& way : ways) {
      SCOPED_TRACE(way.name);
      const auto runner = MakeRunner(options, way);
      const Said said = Ask(*runner);
      EXPECT_EQ(said.whole, expected.whole);
      EXPECT_EQ(said.chunks, expected.chunks);
      EXPECT_EQ(said.text, expected.text);
      EXPECT_EQ(runner->graphs().recorded() > 0, options.cuda.has_value());
      ASSERT_NE(runner->offload_stats(), nullptr);
      const LayerOffloadStats stats = runner->offload_stats()->Total();
      EXPECT_GT(stats.misses, 0u);
      EXPECT_EQ(stats.failed, 0u);
      EXPECT_EQ(stats.hits + stats.misses + stats.cpu, stats.requests);
      EXPECT_EQ(stats.cpu > 0, way.offload.streaming.cpu_experts);
      EXPECT_LE(stats.prefetch_used, std::min(stats.prefetched, stats.hits));
      EXPECT_EQ(stats.link_bytes > 0, way.host_slots > 0);
      EXPECT_EQ(stats.disk_bytes > 0, way.host_slots < 1);
      if (way.offload.streaming.policy != OffloadPolicy::kPipeline) {
        EXPECT_EQ(stats.prefetched, 0u);
      }
    }
  }

  GoldenModel model_{GetParam()};
};

TEST_P(OffloadBitsTest, SlotsPoliciesAndOrdersDoNotChangeABit) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) ExpectTheSame({.dtype = dtype}, Ways());
}

TEST_P(OffloadBitsTest, NorDoTheyOnADevice) {
  if (CudaDevices().empty()) GTEST_SKIP() << "there is no CUDA device";
  std::vector<Way> ways = Ways();
  // Slots of a device are not read from files, and the CPU does not round as it does.
  std::erase_if(ways, [](const Way& way) {
    return way.host_slots == 0 || way.offload.streaming.cpu_experts;
  });
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    ExpectTheSame({.cuda = 0, .dtype = dtype, .batch_invariant = true, .decoding_first = true},
                  ways);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, OffloadBitsTest, ::testing::ValuesIn(GoldensWithExperts()),
                         [](const auto& model) { return model.param; });

}  // namespace
}  // namespace sluice
