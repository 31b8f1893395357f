#pragma once

#include "arch/model_spec.h"
#include "checkpoint/config.h"

// One function for each family: its config.json to its spec, not yet validated.
namespace sluice::arch {

ModelSpec DeepseekV3Spec(const HfConfig& config);
ModelSpec LlamaSpec(const HfConfig& config);
ModelSpec Qwen2MoeSpec(const HfConfig& config);
ModelSpec Qwen3MoeSpec(const HfConfig& config);

}  // namespace sluice::arch
