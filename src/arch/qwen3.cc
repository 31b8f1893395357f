#include "arch/config_reader.h"
#include "arch/families.h"
#include "arch/tensor_tables.h"

namespace sluice::arch {

// The dense models of Qwen3 (arXiv:2505.09388, section 2): an RMS norm on each query and key head.
ModelSpec Qwen3Spec(const HfConfig& config) {
  ModelSpec spec{.family = "qwen3"};
  ReadCommon(config, spec);
  ReadAttention(config, 32, spec, {.head_dim = 128});
  const bool attention_bias = config.OptBool("attention_bias").value_or(false);
  spec.attention.qkv_bias = attention_bias;
  spec.attention.output_bias = attention_bias;
  spec.attention.qk_norm = ops::QkNorm::kPerHead;
  spec.dense.intermediate = ReadInt(config, "intermediate_size");
  spec.ffn.assign(LayersToDescribe(spec), FfnKind::kDense);
  ReadWindows(config, WindowRule::kFromMaxWindowLayers, spec);

  AddGlobalTensors(spec);
  AddAttentionTensors(spec);
  AddDenseFfnTensors(spec);
  return spec;
}

}  // namespace sluice::arch
