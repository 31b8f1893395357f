#include "arch/config_reader.h"
#include "arch/families.h"
#include "arch/tensor_tables.h"

namespace sluice::arch {

// Qwen1.5-MoE and Qwen2-MoE (arXiv:2407.10671, section 2.2.2): fine-grained experts beside a shared
// one, whose output a sigmoid gate scales.
ModelSpec Qwen2MoeSpec(const HfConfig& config) {
  ModelSpec spec{.family = "qwen2_moe"};
  ReadCommon(config, spec);
  ReadAttention(config, 16, spec);
  ReadSparseLayers(config, spec);
  ReadWindows(config, WindowRule::kEvenBelowMaxWindowLayers, spec);
  spec.attention.qkv_bias = config.OptBool("qkv_bias").value_or(true);
  spec.moe.shared_ffn = ReadInt(config, "shared_expert_intermediate_size");
  if (spec.moe.shared_ffn == 0) {
    RefuseOption(config, "shared_expert_intermediate_size", "expected at least 1");
  }
  spec.moe.shared_gate = true;

  AddGlobalTensors(spec);
  AddAttentionTensors(spec);
  AddDenseFfnTensors(spec);
  AddMoeTensors(spec);
  return spec;
}

}  // namespace sluice::arch
