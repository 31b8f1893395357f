// What plan and doctor say that weights, keys and values take, beside what a ModelRunner holds.
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "arch/registry.h"
#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/config.h"
#include "checkpoint/weight_source.h"
#include "engine/model_runner.h"
#include "plan/layout_cost.h"
#include "trace/routing_source.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;

// Weights that stay as their memory was: a large model is then made in no time, and of memory that
// is not touched none is taken.
class UntouchedSource : public DummySource {
 public:
  explicit UntouchedSource(const ModelSpec& spec)
      : DummySource(ListTensors(spec), DType::kF32, 0) {}

 private:
  void CopyElements(const std::string&, int64_t, TensorView) const override {}
};

// Bytes of weights, and of keys and values.
struct Bytes {
  double weights = 0.0;
  double kv = 0.0;
};

RunnerOptions OptionsOf(DType dtype) {
  return {.dtype = dtype, .num_pages = 300, .max_model_len = 64};
}

Bytes Placed(const ModelSpec& spec, const RunnerOptions& options) {
  const double bits = 8.0 * static_cast<double>(SizeOf(options.dtype));
  const HardwareProfile machine;
  const PlacementRequest request{.expert_bits = bits, .weight_bits = bits, .kv_bits = bits};
  const GpuMemory memory =
      LayoutCost(spec, machine, request, {}).Memory(1, options.num_pages * options.page_size);
  return {.weights = memory.weights, .kv = memory.kv};
}

Bytes Estimated(const ModelSpec& spec, const RunnerOptions& options) {
  const MemoryNeeds needs = EstimateMemory(spec, options);
  return {.weights = static_cast<double>(needs.weight_bytes),
          .kv = static_cast<double>(needs.kv_bytes)};
}

Bytes Held(const ModelSpec& spec, const RunnerOptions& options) {
  const UntouchedSource source(spec);
  const ModelRunner runner(spec, source, options, std::make_unique<ModelRouting>());
  const uint64_t experts = runner.experts() == nullptr ? 0 : runner.experts()->NumBytes();
  return {.weights = static_cast<double>(runner.weights().NumBytes() + experts),
          .kv = static_cast<double>(runner.pages().NumBytes())};
}

void ExpectNear(const Bytes& said, const Bytes& held, const std::string& what) {
  EXPECT_NEAR(said.weights, held.weights, 0.03 * held.weights) << what;
  EXPECT_NEAR(said.kv, held.kv, 0.03 * held.kv) << what;
}

TEST(PlannedMemory, IsWhatARunnerHoldsForEveryGolden) {
  int models = 0;
  for (const auto& folder : fs::directory_iterator(SLUICE_SOURCE_DIR "/tests/golden")) {
    if (!fs::exists(folder.path() / "config.json")) continue;
    const ModelSpec spec = SpecFromConfig(HfConfig::FromFolder(folder.path()));
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const RunnerOptions options = OptionsOf(dtype);
      const Bytes held = Held(spec, options);
      const std::string what =
          folder.path().filename().string() + " " + std::string(DTypeName(dtype));
      ExpectNear(Placed(spec, options), held, what + " placed");
      ExpectNear(Estimated(spec, options), held, what + " estimated");
    }
    ++models;
  }
  EXPECT_GE(models, 20);
}

TEST(PlannedMemory, IsWhatARunnerHoldsOfALargeModel) {
  HfConfig config = HfConfig::FromFolder(SLUICE_SOURCE_DIR "/configs/models/Qwen1.5-MoE-A2.7B");
  config.ApplyOverrides(R"({"num_hidden_layers": 2})");
  const ModelSpec spec = SpecFromConfig(config);
  const RunnerOptions options = OptionsOf(DType::kBF16);
  std::optional<Bytes> held;
  try {
    held = Held(spec, options);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kResourceExhausted) throw;
    GTEST_SKIP() << error.what();
  }
  EXPECT_GT(held->weights, 3e9);
  ExpectNear(Placed(spec, options), *held, "placed");
  ExpectNear(Estimated(spec, options), *held, "estimated");
}

TEST(PlannedMemory, IsTheSameInPlanAndEngineForEveryConfig) {
  for (const auto& folder : fs::directory_iterator(SLUICE_SOURCE_DIR "/configs/models")) {
    const ModelSpec spec = SpecFromConfig(HfConfig::FromFolder(folder.path()));
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const RunnerOptions options = OptionsOf(dtype);
      ExpectNear(Placed(spec, options), Estimated(spec, options),
                 folder.path().filename().string() + " " + std::string(DTypeName(dtype)));
    }
  }
}

}  // namespace
}  // namespace sluice
