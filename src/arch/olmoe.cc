#include "arch/config_reader.h"
#include "arch/families.h"
#include "arch/tensor_tables.h"

namespace sluice::arch {

// OLMoE (arXiv:2409.02060): queries and keys are normalised over all heads together.
ModelSpec OlmoeSpec(const HfConfig& config) {
  ModelSpec spec{.family = "olmoe"};
  ReadCommon(config, spec, 1e-5);
  ReadAttention(config, std::nullopt, spec);
  const bool attention_bias = config.OptBool("attention_bias").value_or(false);
  spec.attention.qkv_bias = attention_bias;
  spec.attention.output_bias = attention_bias;
  spec.attention.qk_norm = ops::QkNorm::kFullWidth;
  if (const std::optional<double> clip = config.OptFloat("clip_qkv")) {
    spec.attention.clip_qkv = static_cast<float>(*clip);
  }
  spec.ffn.assign(LayersToDescribe(spec), FfnKind::kMoe);
  ReadWindows(config, WindowRule::kNever, spec);
  spec.moe = {.num_experts = ReadInt(config, "num_experts", 64),
              .top_k = ReadInt(config, "num_experts_per_tok", 8),
              .expert_ffn = ReadInt(config, "intermediate_size"),
              .renormalize_topk = config.OptBool("norm_topk_prob").value_or(false)};

  AddGlobalTensors(spec);
  AddAttentionTensors(spec);
  AddMoeTensors(spec);
  return spec;
}

}  // namespace sluice::arch
