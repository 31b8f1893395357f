#pragma once

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "arch/registry.h"
#include "checkpoint/config.h"

namespace sluice {

// A model of two layers and eight experts, small enough for any test, to be run with DummySource.
inline ModelSpec TinyMoeSpec() {
  static constexpr char kConfig[] = R"({
  "model_type": "qwen3_moe", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2,
  "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 48,
  "moe_intermediate_size": 16, "num_experts": 8, "num_experts_per_tok": 2,
  "max_position_embeddings": 64, "norm_topk_prob": true, "rms_norm_eps": 1e-6})";
  return SpecFromConfig(HfConfig::FromJson(kConfig, "test"));
}

// The checkpoints in `goldens` (tests/golden) that have a golden.safetensors, by folder name,
// ascending.
inline std::vector<std::string> GoldenNames(const std::filesystem::path& goldens) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(goldens)) {
    if (std::filesystem::exists(entry.path() / "golden.safetensors")) {
      names.push_back(entry.path().filename());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace sluice
