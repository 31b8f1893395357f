#pragma once

#include <cstddef>
#include <span>
#include <string_view>

namespace sluice {

// The name that the embedded model is served under.
inline constexpr std::string_view kEmbeddedModelName = "storyteller";

// The files of models/storyteller as they are linked into this binary. They live as long as the
// process; the weights are aligned for tensors.
struct EmbeddedModel {
  std::string_view config_json;
  std::string_view generation_config_json;
  std::string_view tokenizer_json;
  std::string_view tokenizer_config_json;
  std::span<const std::byte> safetensors;
};
EmbeddedModel GetEmbeddedModel();

// The text of configs/groups.yaml, linked in likewise.
std::string_view EmbeddedGroups();

}  // namespace sluice
