#include <cmath>

#include "arch/config_reader.h"
#include "arch/families.h"

namespace sluice::arch {
namespace {

// Both objects repeat what every config has, and a tie_word_embeddings that says nothing there.
void RefuseUnknownInside(const HfConfig& nested) {
  nested.OptBool("tie_word_embeddings");
  RefuseUnknownKeys(nested);
}

void ReadDbrxAttention(const HfConfig& config, ModelSpec& spec) {
  AttentionSpec& attention = spec.attention;
  attention.num_heads = ReadInt(config, "n_heads");
  if (attention.num_heads == 0 || spec.hidden_size % attention.num_heads != 0) {
    RefuseOption(config, "n_heads", "expected a divisor of d_model");
  }
  attention.head_dim = spec.hidden_size / attention.num_heads;
  attention.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(attention.head_dim)));
  const HfConfig nested = config.Object("attn_config");
  attention.num_kv_heads = ReadInt(nested, "kv_n_heads", 1);
  if (const std::optional<double> clip = nested.OptFloat("clip_qkv")) {
    attention.clip_qkv = static_cast<float>(*clip);
  }
  // transformers 5 writes the theta that it uses to rope_parameters.
  ReadRope(config, attention.head_dim, nested.OptFloat("rope_theta").value_or(10000.0), spec);
  config.OptInt("num_key_value_heads");  // kv_n_heads once more
  nested.OptFloat("attn_pdrop");         // training
  nested.OptString("model_type");
  RefuseUnknownInside(nested);
}

void ReadDbrxExperts(const HfConfig& config, ModelSpec& spec) {
  const HfConfig nested = config.Object("ffn_config");
  spec.moe = {.num_experts = ReadInt(nested, "moe_num_experts", 4),
              .top_k = ReadInt(nested, "moe_top_k", 1),
              .expert_ffn = ReadInt(nested, "ffn_hidden_size", 3584),
              .renormalize_topk = true};
  const bool norm_is_null = nested.json().contains("moe_normalize_expert_weights") &&
                            !nested.Has("moe_normalize_expert_weights");
  if (norm_is_null) {
    spec.moe.renormalize_topk = false;
  } else {
    spec.moe.topk_norm =
        static_cast<float>(nested.OptFloat("moe_normalize_expert_weights").value_or(1.0));
  }
  if (const std::optional<HfConfig> activation = nested.OptObject("ffn_act_fn")) {
    if (activation->OptString("name").value_or("silu") != "silu") {
      RefuseOption(config, "ffn_config", "only the ffn_act_fn \"silu\" is supported");
    }
    RefuseUnknownKeys(*activation);
  }
  nested.OptInt("hidden_size");  // d_model once more
  nested.OptFloat("moe_jitter_eps");
  nested.OptFloat("moe_loss_weight");
  nested.OptString("model_type");
  RefuseUnknownInside(nested);
}

TensorRule Matrix(const char* name, TensorRole role, const Shape& shape, ShardAxis shard) {
  return {.name = std::string("transformer.blocks.{layer}.") + name,
          .role = role,
          .shape = shape,
          .layers = LayerSet::kAll,
          .shard = shard,
          .quantizable = true};
}

void AddDbrxTensors(ModelSpec& spec) {
  const AttentionSpec& a = spec.attention;
  const int64_t hidden = spec.hidden_size;
  const int64_t qkv = (int64_t{a.num_heads} + 2 * int64_t{a.num_kv_heads}) * a.head_dim;
  const Shape table = {spec.vocab_size, hidden};
  const Shape expert = {spec.moe.expert_ffn, hidden};
  const ShardAxis rows = ShardAxis::kRows;
  std::vector<TensorRule>& t = spec.tensors;
  t.push_back({.name = "transformer.wte.weight",
               .role = TensorRole::kEmbedding,
               .shape = table,
               .shard = rows});
  t.push_back(
      {.name = "transformer.norm_f.weight", .role = TensorRole::kFinalNorm, .shape = {hidden}});
  t.push_back(
      {.name = "lm_head.weight", .role = TensorRole::kLmHead, .shape = table, .shard = rows});
  for (const auto& [name, role] :
       {std::pair{"norm_attn_norm.norm_1.weight", TensorRole::kInputNorm},
        {"norm_attn_norm.norm_2.weight", TensorRole::kPostAttentionNorm}}) {
    t.push_back(Matrix(name, role, {hidden}, ShardAxis::kReplicate));
    t.back().quantizable = false;
  }
  t.push_back(Matrix("norm_attn_norm.attn.Wqkv.weight", TensorRole::kQkv, {qkv, hidden}, rows));
  t.push_back(Matrix("norm_attn_norm.attn.out_proj.weight", TensorRole::kO, {hidden, hidden},
                     ShardAxis::kColumns));
  t.push_back(Matrix("ffn.router.layer.weight", TensorRole::kRouter, {spec.moe.num_experts, hidden},
                     ShardAxis::kReplicate));
  t.back().quantizable = false;
  for (const auto& [name, role] : {std::pair{"ffn.experts.mlp.w1", TensorRole::kExpertGate},
                                   {"ffn.experts.mlp.v1", TensorRole::kExpertUp},
                                   {"ffn.experts.mlp.w2", TensorRole::kExpertDown}}) {
    t.push_back(Matrix(name, role, expert, rows));
    t.back().stacked_experts = true;
    t.back().transposed = role == TensorRole::kExpertDown;
  }
}

}  // namespace

// DBRX (databricks, 2024): LayerNorm without biases, one tensor for queries, keys and values, one
// for all experts of a layer.
ModelSpec DbrxSpec(const HfConfig& config) {
  ModelSpec spec{.family = "dbrx"};
  spec.vocab_size = ReadInt(config, "vocab_size");
  spec.hidden_size = ReadInt(config, "d_model");
  spec.num_layers = ReadInt(config, "n_layers");
  spec.max_positions = ReadInt(config, "max_seq_len");
  spec.norm = ops::NormKind::kLayer;
  spec.norm_eps = 1e-5f;  // torch's default, which no key changes
  ReadStorage(config, spec);
  if (spec.tie_embeddings) RefuseOption(config, "tie_word_embeddings", "expected false");
  ReadDbrxAttention(config, spec);
  spec.ffn.assign(LayersToDescribe(spec), FfnKind::kMoe);
  ReadDbrxExperts(config, spec);
  config.OptFloat("emb_pdrop");  // training
  config.OptFloat("resid_pdrop");
  AddDbrxTensors(spec);
  return spec;
}

}  // namespace sluice::arch
