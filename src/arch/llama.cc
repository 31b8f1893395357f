#include "arch/config_reader.h"
#include "arch/families.h"
#include "arch/tensor_tables.h"

namespace sluice::arch {

// The dense decoder of LLaMA (arXiv:2302.13971).
ModelSpec LlamaSpec(const HfConfig& config) {
  ModelSpec spec{.family = "llama"};
  ReadCommon(config, spec);
  ReadAttention(config, std::nullopt, spec);
  // pretraining_tp only cut the products into pieces; above 1 it changes their rounding.
  if (config.OptInt("pretraining_tp").value_or(1) != 1) {
    RefuseOption(config, "pretraining_tp", "only 1 is supported");
  }
  const bool attention_bias = config.OptBool("attention_bias").value_or(false);
  spec.attention.qkv_bias = attention_bias;
  spec.attention.output_bias = attention_bias;
  spec.dense = {.intermediate = ReadInt(config, "intermediate_size"),
                .bias = config.OptBool("mlp_bias").value_or(false)};
  spec.ffn.assign(LayersToDescribe(spec), FfnKind::kDense);
  ReadWindows(config, WindowRule::kNever, spec);

  AddGlobalTensors(spec);
  AddAttentionTensors(spec);
  AddDenseFfnTensors(spec);
  return spec;
}

}  // namespace sluice::arch
