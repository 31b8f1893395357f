// What a placement says that weights, keys and values take, beside what the engine reckons, and
// keeps to, before it allocates them.
#include <gtest/gtest.h>

#include <filesystem>

#include "arch/registry.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/config.h"
#include "checkpoint/weight_source.h"
#include "engine/model_runner.h"
#include "plan/layout_cost.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;

void ExpectAgreement(const ModelSpec& spec, const std::string& name) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const RunnerOptions options{.dtype = dtype, .num_pages = 300, .max_model_len = 64};
    const MemoryNeeds needs = EstimateMemory(spec, options);
    const double bits = 8.0 * static_cast<double>(SizeOf(dtype));
    const HardwareProfile machine;
    const PlacementRequest request{.expert_bits = bits, .weight_bits = bits, .kv_bits = bits};
    const GpuMemory memory =
        LayoutCost(spec, machine, request, {}).Memory(1, options.num_pages * options.page_size);
    const auto weights = static_cast<double>(needs.weight_bytes);
    const auto kv = static_cast<double>(needs.kv_bytes);
    EXPECT_NEAR(memory.weights, weights, 0.03 * weights) << name << " " << DTypeName(dtype);
    EXPECT_NEAR(memory.kv, kv, 0.03 * kv) << name << " " << DTypeName(dtype);
  }
}

TEST(PlannedMemory, IsTheEnginesForEveryGolden) {
  int models = 0;
  for (const auto& folder : fs::directory_iterator(SLUICE_SOURCE_DIR "/tests/golden")) {
    if (!fs::exists(folder.path() / "config.json")) continue;
    ExpectAgreement(SpecFromConfig(HfConfig::FromFolder(folder.path())),
                    folder.path().filename().string());
    ++models;
  }
  EXPECT_GE(models, 20);
}

TEST(PlannedMemory, IsTheEnginesForEveryModelServed) {
  for (const auto& folder : fs::directory_iterator(SLUICE_SOURCE_DIR "/configs/models")) {
    HfConfig config = HfConfig::FromFolder(folder.path());
    ExpectAgreement(SpecFromConfig(config), folder.path().filename().string());
  }
  HfConfig two = HfConfig::FromFolder(SLUICE_SOURCE_DIR "/configs/models/Qwen1.5-MoE-A2.7B");
  two.ApplyOverrides(R"({"num_hidden_layers": 2})");
  ExpectAgreement(SpecFromConfig(two), "Qwen1.5-MoE-A2.7B with two layers");
}

}  // namespace
}  // namespace sluice
