#pragma once

#include "arch/model_spec.h"
#include "checkpoint/config.h"

// One function for each family: its config.json to its spec, not yet validated.
namespace sluice::arch {

ModelSpec DbrxSpec(const HfConfig& config);
ModelSpec DeepseekV3Spec(const HfConfig& config);
ModelSpec LladaSpec(const HfConfig& config);
ModelSpec LlamaSpec(const HfConfig& config);
ModelSpec MixtralSpec(const HfConfig& config);
ModelSpec OlmoeSpec(const HfConfig& config);
ModelSpec Qwen2Spec(const HfConfig& config);
ModelSpec Qwen2MoeSpec(const HfConfig& config);
ModelSpec Qwen3Spec(const HfConfig& config);
ModelSpec Qwen3MoeSpec(const HfConfig& config);

}  // namespace sluice::arch
