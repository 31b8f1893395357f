#include "arch/config_reader.h"
#include "arch/families.h"
#include "arch/tensor_tables.h"

namespace sluice::arch {

// Qwen3-MoE (arXiv:2505.09388, section 2): grouped-query attention with an RMS norm on each query
// and key head, experts without a shared one.
ModelSpec Qwen3MoeSpec(const HfConfig& config) {
  ModelSpec spec{.family = "qwen3_moe"};
  ReadCommon(config, spec);
  ReadAttention(config, 4, spec);
  ReadSparseLayers(config, spec);
  ReadWindows(config, WindowRule::kEveryLayer, spec);
  const bool attention_bias = config.OptBool("attention_bias").value_or(false);
  spec.attention.qkv_bias = attention_bias;
  spec.attention.output_bias = attention_bias;
  spec.attention.qk_norm = ops::QkNorm::kPerHead;

  AddGlobalTensors(spec);
  AddAttentionTensors(spec);
  AddDenseFfnTensors(spec);
  AddMoeTensors(spec);
  return spec;
}

}  // namespace sluice::arch
