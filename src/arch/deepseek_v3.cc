#include <algorithm>
#include <cmath>
#include <string>

#include "arch/config_reader.h"
#include "arch/families.h"
#include "arch/tensor_tables.h"

namespace sluice::arch {
namespace {

// The reference builds these two norms with its default, whatever rms_norm_eps says.
constexpr float kLatentNormEps = 1e-6f;

// A key that repeats what others say.
void RequireEqual(const HfConfig& config, std::string_view key, int expected) {
  if (ReadInt(config, key, expected) != expected) {
    RefuseOption(config, key, "expected " + std::to_string(expected));
  }
}

void ReadLatentAttention(const HfConfig& config, ModelSpec& spec) {
  AttentionSpec& attention = spec.attention;
  LatentSpec& latent = attention.latent;
  attention.kind = AttentionKind::kLatent;
  attention.num_heads = ReadInt(config, "num_attention_heads");
  attention.num_kv_heads = ReadInt(config, "num_key_value_heads", attention.num_heads);
  latent = {.q_rank = ReadInt(config, "q_lora_rank", 0),
            .kv_rank = ReadInt(config, "kv_lora_rank"),
            .nope_dim = ReadInt(config, "qk_nope_head_dim"),
            .rope_dim = ReadInt(config, "qk_rope_head_dim"),
            .value_dim = ReadInt(config, "v_head_dim"),
            .norm_eps = kLatentNormEps};
  // transformers calls the rotated part of a head head_dim.
  RequireEqual(config, "head_dim", latent.rope_dim);
  const int64_t head_dim = int64_t{latent.nope_dim} + latent.rope_dim;
  attention.head_dim = static_cast<int>(std::min<int64_t>(head_dim, 1 << 30));
  RequireEqual(config, "qk_head_dim", attention.head_dim);
  const bool bias = config.OptBool("attention_bias").value_or(false);
  attention.qkv_bias = bias;
  attention.output_bias = bias;

  ReadRope(config, latent.rope_dim, 10000.0, spec);
  const bool interleaved = config.OptBool("rope_interleave").value_or(true);
  attention.rope.pairing = interleaved ? ops::RopePairing::kAdjacent : ops::RopePairing::kHalves;
  double scale = 1.0 / std::sqrt(static_cast<double>(attention.head_dim));
  if (attention.rope.scaling == ops::RopeScaling::kYarn) {
    const double mscale_all_dim =
        config.Object("rope_parameters").OptFloat("mscale_all_dim").value_or(0.0);
    if (mscale_all_dim != 0.0) {
      const double mscale = YarnMscale(attention.rope.factor, mscale_all_dim);
      scale *= mscale * mscale;
    }
  }
  attention.scale = static_cast<float>(scale);
}

// How experts are chosen. The version 3 form, noaux_tc, is the default.
void ReadRouter(const HfConfig& config, MoeSpec& moe) {
  const std::string method = config.OptString("topk_method").value_or("noaux_tc");
  const std::string score = config.OptString("scoring_func").value_or("sigmoid");
  if (method != "noaux_tc" && method != "greedy") {
    RefuseOption(config, "topk_method", "\"noaux_tc\" and \"greedy\" are supported");
  }
  if (score != "sigmoid" && score != "softmax") {
    RefuseOption(config, "scoring_func", "\"sigmoid\" and \"softmax\" are supported");
  }
  if (score == "softmax" && method != "greedy") {
    RefuseOption(config, "scoring_func", "\"softmax\" is supported with topk_method \"greedy\"");
  }
  moe.score = score == "sigmoid" ? ops::RouterScore::kSigmoid : ops::RouterScore::kSoftmax;
  const bool grouped = method == "noaux_tc";
  moe.choice_bias = grouped;
  moe.num_groups = ReadInt(config, "n_group", grouped ? 8 : 1);
  moe.top_groups = ReadInt(config, "topk_group", grouped ? 4 : 1);
  if (!grouped && moe.num_groups != moe.top_groups) {
    RefuseOption(config, "n_group", "\"greedy\" chooses from all groups");
  }
  if (!grouped) moe.num_groups = moe.top_groups = 1;
}

void ReadExperts(const HfConfig& config, ModelSpec& spec) {
  MoeSpec& moe = spec.moe;
  spec.dense.intermediate = ReadInt(config, "intermediate_size");
  moe.num_experts = ReadInt(config, "n_routed_experts");
  moe.top_k = ReadInt(config, "num_experts_per_tok");
  moe.expert_ffn = ReadInt(config, "moe_intermediate_size");
  moe.renormalize_topk = config.OptBool("norm_topk_prob").value_or(true);
  moe.scale = static_cast<float>(config.OptFloat("routed_scaling_factor").value_or(2.5));
  // Shared experts lie in the file as one that is as wide as all of them.
  const int shared = ReadInt(config, "n_shared_experts", 1);
  if (shared > 4096) RefuseOption(config, "n_shared_experts", "expected at most 4096");
  moe.shared_ffn = static_cast<int>(std::min<int64_t>(int64_t{shared} * moe.expert_ffn, 1 << 30));
  ReadRouter(config, moe);

  const int first = ReadInt(config, "first_k_dense_replace", 3);
  const int step = ReadInt(config, "moe_layer_freq", 1);
  if (step == 0) RefuseOption(config, "moe_layer_freq", "expected at least 1");
  for (int i = 0; i < LayersToDescribe(spec); ++i) {
    const bool sparse = moe.num_experts > 0 && i >= first && i % step == 0;
    spec.ffn.push_back(sparse ? FfnKind::kMoe : FfnKind::kDense);
  }
}

// Layers behind the last that predict further tokens. Nothing here reads them.
void IgnoreNextTokenLayers(const HfConfig& config, ModelSpec& spec) {
  const int layers = std::min(ReadInt(config, "num_nextn_predict_layers", 0), 64);
  for (int i = 0; i < layers; ++i) {
    const int64_t layer = int64_t{spec.num_layers} + i;
    spec.ignored_tensors.push_back("model.layers." + std::to_string(layer) + ".*");
  }
}

}  // namespace

// DeepSeek-V3 (arXiv:2412.19437, section 2.1): latent attention, experts chosen by biased sigmoid
// scores out of the best groups, shared experts, and dense layers before the first sparse one.
ModelSpec DeepseekV3Spec(const HfConfig& config) {
  ModelSpec spec{.family = "deepseek_v3"};
  ReadCommon(config, spec);
  ReadLatentAttention(config, spec);
  ReadExperts(config, spec);
  ReadWindows(config, WindowRule::kNever, spec);

  AddGlobalTensors(spec);
  AddLatentAttentionTensors(spec);
  AddDenseFfnTensors(spec);
  AddMoeTensors(spec, {.shared = "shared_experts."});
  IgnoreNextTokenLayers(config, spec);
  return spec;
}

}  // namespace sluice::arch
