// Every golden model with experts, with every expert in a slot and with fewer slots than experts:
// whatever brings them, in whatever order they come, bit for bit the same.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "arch/registry.h"
#include "arch/testing.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/config.h"
#include "device/cuda_stream.h"
#include "engine/model_runner.h"
#include "engine/verify.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;

const fs::path kFolder = fs::path(SLUICE_SOURCE_DIR) / "tests/golden";

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
  OffloadBitsTest()
      : spec_(SpecFromConfig(HfConfig::FromFolder(kFolder / GetParam()))),
        source_(Checkpoint::Open(kFolder / GetParam()), spec_.block_scaled),
        golden_(LoadGolden(kFolder / GetParam() / "golden.safetensors")) {
    for (int b = 0; b < golden_.batch; ++b) rows_.push_back(golden_.row(b));
  }

  std::unique_ptr<ModelRunner> MakeRunner(RunnerOptions options) const {
    options.num_threads = 2;
    options.tier = DetectCpuTier();
    options.num_pages = 64;
    options.max_model_len = spec_.max_positions;
    options.poison_freed_slots = true;
    return std::make_unique<ModelRunner>(spec_, source_, options, std::make_unique<ModelRouting>());
  }

  std::unique_ptr<ModelRunner> MakeRunner(RunnerOptions options, const Way& way) const {
    const double all = static_cast<double>(MoeLayers(spec_).size()) * spec_.moe.num_experts;
    options.expert_slots = std::max(2, static_cast<int>(way.slots * all));
    options.offload = way.offload;
    if (way.host_slots > 0) {
      options.offload.host_slots = std::max(2, static_cast<int>(way.host_slots * all));
    }
    return MakeRunner(options);
  }

  // All that a runner says: every row's logits, in a large step and in several, then greedy text.
  struct Said {
    std::vector<float> whole;
    std::vector<float> chunks;
    std::vector<TokenId> text;
  };
  Said Ask(ModelRunner& runner) const {
    const auto values = [](const Tensor& logits) {
      return std::vector<float>(logits.data<float>(),
                                logits.data<float>() + logits.view().NumElements());
    };
    const auto count = static_cast<int>(golden_.greedy_ids.size());
    return {values(ForwardSequences(runner, rows_)),
            values(ForwardSequences(runner, rows_, {.chunk = 9})),
            GreedyContinuation(runner, golden_.row(0), count)};
  }

  // Each of `ways` says what a runner with these options does that has a slot for every expert.
  void ExpectTheSame(const RunnerOptions& options, const std::vector<Way>& ways) const {
    const Said expected = Ask(*MakeRunner(options));
    for (const Way& way : ways) {
      SCOPED_TRACE(way.name);
      const auto runner = MakeRunner(options, way);
      const Said said = Ask(*runner);
      EXPECT_EQ(said.whole, expected.whole);
      EXPECT_EQ(said.chunks, expected.chunks);
      EXPECT_EQ(said.text, expected.text);
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

  ModelSpec spec_;
  CheckpointSource source_;
  Golden golden_;
  std::vector<std::span<const TokenId>> rows_;
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
    ExpectTheSame({.cuda = 0, .dtype = dtype, .batch_invariant = true}, ways);
  }
}

std::vector<std::string> GoldensWithExperts() {
  std::vector<std::string> names = GoldenNames(kFolder);
  std::erase_if(names, [](const std::string& name) {
    return SpecFromConfig(HfConfig::FromFolder(kFolder / name)).moe.num_experts == 0;
  });
  return names;
}

INSTANTIATE_TEST_SUITE_P(Models, OffloadBitsTest, ::testing::ValuesIn(GoldensWithExperts()),
                         [](const auto& model) { return model.param; });

}  // namespace
}  // namespace sluice
