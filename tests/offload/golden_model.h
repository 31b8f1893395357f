#pragma once

#include <algorithm>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "arch/registry.h"
#include "arch/testing.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/config.h"
#include "engine/model_runner.h"
#include "engine/verify.h"

namespace sluice {

inline std::filesystem::path GoldenFolder() {
  return std::filesystem::path(SLUICE_SOURCE_DIR) / "tests/golden";
}

// Those that have experts.
inline std::vector<std::string> GoldensWithExperts() {
  std::vector<std::string> names = GoldenNames(GoldenFolder());
  std::erase_if(names, [](const std::string& name) {
    return SpecFromConfig(HfConfig::FromFolder(GoldenFolder() / name)).moe.num_experts == 0;
  });
  return names;
}

// A golden model, and runners of it.
class GoldenModel {
 public:
  explicit GoldenModel(const std::string& name)
      : spec_(SpecFromConfig(HfConfig::FromFolder(GoldenFolder() / name))),
        source_(Checkpoint::Open(GoldenFolder() / name), spec_.block_scaled),
        golden_(LoadGolden(GoldenFolder() / name / "golden.safetensors")) {
    for (int b = 0; b < golden_.batch; ++b) rows_.push_back(golden_.row(b));
  }
  GoldenModel(const GoldenModel&) = delete;
  GoldenModel& operator=(const GoldenModel&) = delete;

  const ModelSpec& spec() const { return spec_; }
  const Golden& golden() const { return golden_; }
  std::span<const std::span<const TokenId>> rows() const { return rows_; }
  double NumExperts() const {  // of all layers
    return static_cast<double>(MoeLayers(spec_).size()) * spec_.moe.num_experts;
  }

  // With pages for what tests run, on two threads.
  std::unique_ptr<ModelRunner> MakeRunner(
      RunnerOptions options,
      std::unique_ptr<RoutingSource> routing = std::make_unique<ModelRouting>()) const {
    options.num_threads = 2;
    options.tier = DetectCpuTier();
    options.num_pages = 64;
    options.max_model_len = spec_.max_positions;
    options.poison_freed_slots = true;
    return std::make_unique<ModelRunner>(spec_, source_, options, std::move(routing));
  }

 private:
  ModelSpec spec_;
  CheckpointSource source_;
  Golden golden_;
  std::vector<std::span<const TokenId>> rows_;
};

inline std::vector<float> ValuesOf(const Tensor& logits) {
  const auto* values = logits.data<float>();
  return {values, values + logits.view().NumElements()};
}

}  // namespace sluice
