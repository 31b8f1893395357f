#include <cmath>
#include <string>

#include "arch/config_reader.h"
#include "arch/families.h"
#include "arch/tensor_tables.h"

namespace sluice::arch {
namespace {

// Refuses a switch that is set to anything else.
void RequireSwitch(const HfConfig& config, std::string_view key, bool expected) {
  if (config.OptBool(key).value_or(expected) == expected) return;
  RefuseOption(config, key, std::string("expected ") + (expected ? "true" : "false"));
}

void RequireText(const HfConfig& config, std::string_view key, const std::string& expected) {
  if (config.OptString(key).value_or(expected) == expected) return;
  RefuseOption(config, key, "expected \"" + expected + "\"");
}

TensorRule OfBlock(const char* name, TensorRole role, const Shape& shape, ShardAxis shard) {
  return {.name = std::string("model.transformer.blocks.{layer}.") + name + ".weight",
          .role = role,
          .shape = shape,
          .layers = LayerSet::kAll,
          .shard = shard,
          .quantizable = shard != ShardAxis::kReplicate};
}

void AddDenseTensors(ModelSpec& spec) {
  const AttentionSpec& a = spec.attention;
  const int64_t hidden = spec.hidden_size;
  const int64_t kv = int64_t{a.num_kv_heads} * a.head_dim;
  const int64_t width = spec.dense.intermediate;
  const Shape table = {spec.vocab_size, hidden};
  const ShardAxis rows = ShardAxis::kRows;
  const ShardAxis columns = ShardAxis::kColumns;
  const ShardAxis whole = ShardAxis::kReplicate;
  spec.tensors = {
      {.name = "model.transformer.wte.weight",
       .role = TensorRole::kEmbedding,
       .shape = table,
       .shard = rows},
      {.name = "model.transformer.ln_f.weight", .role = TensorRole::kFinalNorm, .shape = {hidden}},
      {.name = "model.transformer.ff_out.weight",
       .role = TensorRole::kLmHead,
       .shape = table,
       .shard = rows},
      OfBlock("attn_norm", TensorRole::kInputNorm, {hidden}, whole),
      OfBlock("q_proj", TensorRole::kQ, {hidden, hidden}, rows),
      OfBlock("k_proj", TensorRole::kK, {kv, hidden}, rows),
      OfBlock("v_proj", TensorRole::kV, {kv, hidden}, rows),
      OfBlock("attn_out", TensorRole::kO, {hidden, hidden}, columns),
      OfBlock("ff_norm", TensorRole::kPostAttentionNorm, {hidden}, whole),
      OfBlock("ff_proj", TensorRole::kGate, {width, hidden}, rows),
      OfBlock("up_proj", TensorRole::kUp, {width, hidden}, rows),
      OfBlock("ff_out", TensorRole::kDown, {hidden, width}, columns)};
}

// Switches of the code that the dense models were trained with, and what only training reads.
void RefuseOtherBlocks(const HfConfig& config) {
  RequireText(config, "activation_type", "silu");
  RequireText(config, "block_type", "llama");
  RequireText(config, "layer_norm_type", "rms");
  RequireSwitch(config, "layer_norm_with_affine", true);
  RequireSwitch(config, "rope", true);
  RequireSwitch(config, "alibi", false);
  RequireSwitch(config, "attention_layer_norm", false);
  RequireSwitch(config, "weight_tying", false);
  config.OptFloat("alibi_bias_max");
  config.OptBool("attention_layer_norm_with_affine");
  config.OptInt("block_group_size");
  config.OptString("init_device");
  config.OptString("init_fn");
  config.OptFloat("init_std");
  config.OptFloat("mlp_ratio");  // mlp_hidden_size says it
  config.OptString("precision");
  config.OptBool("rope_full_precision");
}

void ReadDense(const HfConfig& config, ModelSpec& spec) {
  spec.vocab_size = ReadInt(config, "vocab_size");
  spec.hidden_size = ReadInt(config, "d_model");
  spec.num_layers = ReadInt(config, "n_layers");
  spec.max_positions = ReadInt(config, "max_sequence_length");
  spec.norm_eps = static_cast<float>(config.OptFloat("rms_norm_eps").value_or(1e-5));
  AttentionSpec& attention = spec.attention;
  attention.num_heads = ReadInt(config, "n_heads");
  if (attention.num_heads == 0 || spec.hidden_size % attention.num_heads != 0) {
    RefuseOption(config, "n_heads", "expected a divisor of d_model");
  }
  attention.num_kv_heads = ReadInt(config, "n_kv_heads", attention.num_heads);
  attention.head_dim = spec.hidden_size / attention.num_heads;
  attention.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(attention.head_dim)));
  ReadRope(config, attention.head_dim, 10000.0, spec);
  spec.dense.intermediate = ReadInt(config, "mlp_hidden_size");
  spec.ffn.assign(LayersToDescribe(spec), FfnKind::kDense);
  RefuseOtherBlocks(config);
  if (ReadInt(config, "embedding_size", spec.vocab_size) != spec.vocab_size) {
    RefuseOption(config, "embedding_size", "expected vocab_size");
  }
  AddDenseTensors(spec);
}

void ReadExperts(const HfConfig& config, ModelSpec& spec) {
  ReadCommon(config, spec, 1e-5);
  ReadAttention(config, std::nullopt, spec, {.rope_theta = 50000.0});
  RequireSwitch(config, "attention_bias", false);
  RequireText(config, "moe_router_score_function", "softmax");
  if (config.OptFloat("routed_scaling_factor").value_or(1.0) != 1.0) {
    RefuseOption(config, "routed_scaling_factor", "expected 1");
  }
  const bool norms = config.OptBool("qk_layernorm").value_or(true);
  spec.attention.qk_norm = norms ? ops::QkNorm::kPerHead : ops::QkNorm::kNone;
  spec.moe = {.num_experts = ReadInt(config, "num_experts"),
              .top_k = ReadInt(config, "num_experts_per_tok"),
              .expert_ffn = ReadInt(config, "expert_intermediate_size")};
  const std::vector<int64_t> sparse =
      config.Has("moe_layer_freq") ? config.IntList("moe_layer_freq") : std::vector<int64_t>();
  for (int i = 0; i < LayersToDescribe(spec); ++i) {
    const bool is_dense = static_cast<size_t>(i) < sparse.size() && sparse[i] == 0;
    spec.ffn.push_back(is_dense ? FfnKind::kDense : FfnKind::kMoe);
  }
  const int dense_width = ReadInt(config, "dense_intermediate_size", 0);
  AddGlobalTensors(spec);
  AddAttentionTensors(spec);
  AddMoeTensors(spec);
  if (spec.NumMoeLayers() == spec.num_layers) return;
  spec.dense.intermediate = dense_width;
  AddDenseFfnTensors(spec);
}

}  // namespace

// LLaDA (arXiv:2502.09992) and LLaDA-MoE (arXiv:2509.24389): every position sees all others, and
// tokens that are masked are filled in by steps of denoising. The dense models' configs have names
// of their own, those of the models with experts are transformers'.
ModelSpec LladaSpec(const HfConfig& config) {
  ModelSpec spec{.family = "llada"};
  if (config.Has("num_experts")) {
    ReadExperts(config, spec);
  } else {
    ReadStorage(config, spec);
    ReadDense(config, spec);
  }
  // The configs do not say what the published files hold.
  if (!config.Has("dtype")) spec.checkpoint_dtype = DType::kBF16;
  spec.attention.mask = ops::AttentionMask::kFull;
  config.OptInt("mask_token_id");
  return spec;
}

}  // namespace sluice::arch
