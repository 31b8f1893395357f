#include "arch/tensor_tables.h"

namespace sluice::arch {
namespace {

constexpr char kLayer[] = "model.layers.{layer}.";

// A projection [out, in]. Those that widen are cut by rows, those that lead back by columns, so
// that one sum over the ranks ends the block.
TensorRule Projection(const std::string& name, TensorRole role, int64_t out, int64_t in,
                      LayerSet layers, ShardAxis shard) {
  return {.name = kLayer + name,
          .role = role,
          .shape = {out, in},
          .layers = layers,
          .shard = shard,
          .quantizable = true};
}

// A vector or a small matrix that is never quantised.
TensorRule Plain(const std::string& name, TensorRole role, const Shape& shape, LayerSet layers,
                 ShardAxis shard = ShardAxis::kReplicate) {
  return {.name = kLayer + name, .role = role, .shape = shape, .layers = layers, .shard = shard};
}

// The three matrices of a gated feed-forward block under `prefix`.
void AddGatedFfn(ModelSpec& spec, const std::string& prefix, TensorRole gate, TensorRole up,
                 TensorRole down, int64_t width, LayerSet layers, const MoeNames& names = {}) {
  const int64_t hidden = spec.hidden_size;
  std::vector<TensorRule>& table = spec.tensors;
  table.push_back(
      Projection(prefix + names.gate + ".weight", gate, width, hidden, layers, ShardAxis::kRows));
  table.push_back(
      Projection(prefix + names.up + ".weight", up, width, hidden, layers, ShardAxis::kRows));
  table.push_back(Projection(prefix + names.down + ".weight", down, hidden, width, layers,
                             ShardAxis::kColumns));
}

}  // namespace

void AddGlobalTensors(ModelSpec& spec) {
  const Shape table = {spec.vocab_size, spec.hidden_size};
  spec.tensors.push_back({.name = "model.embed_tokens.weight",
                          .role = TensorRole::kEmbedding,
                          .shape = table,
                          .shard = ShardAxis::kRows});
  spec.tensors.push_back(
      {.name = "model.norm.weight", .role = TensorRole::kFinalNorm, .shape = {spec.hidden_size}});
  if (spec.tie_embeddings) {
    spec.ignored_tensors.push_back("lm_head.weight");  // a copy of the embedding
  } else {
    spec.tensors.push_back({.name = "lm_head.weight",
                            .role = TensorRole::kLmHead,
                            .shape = table,
                            .shard = ShardAxis::kRows});
  }
  // Old versions of transformers saved the rope's frequencies, which follow from the config.
  spec.ignored_tensors.push_back("*.rotary_emb.inv_freq");
}

void AddAttentionTensors(ModelSpec& spec) {
  const AttentionSpec& a = spec.attention;
  const int64_t hidden = spec.hidden_size;
  const int64_t q = int64_t{a.num_heads} * a.head_dim;
  const int64_t kv = int64_t{a.num_kv_heads} * a.head_dim;
  const LayerSet all = LayerSet::kAll;
  const ShardAxis rows = ShardAxis::kRows;
  std::vector<TensorRule>& table = spec.tensors;
  table.push_back(Plain("input_layernorm.weight", TensorRole::kInputNorm, {hidden}, all));
  table.push_back(Projection("self_attn.q_proj.weight", TensorRole::kQ, q, hidden, all, rows));
  table.push_back(Projection("self_attn.k_proj.weight", TensorRole::kK, kv, hidden, all, rows));
  table.push_back(Projection("self_attn.v_proj.weight", TensorRole::kV, kv, hidden, all, rows));
  table.push_back(
      Projection("self_attn.o_proj.weight", TensorRole::kO, hidden, q, all, ShardAxis::kColumns));
  if (a.qkv_bias) {
    table.push_back(Plain("self_attn.q_proj.bias", TensorRole::kQBias, {q}, all, rows));
    table.push_back(Plain("self_attn.k_proj.bias", TensorRole::kKBias, {kv}, all, rows));
    table.push_back(Plain("self_attn.v_proj.bias", TensorRole::kVBias, {kv}, all, rows));
  }
  if (a.output_bias) {
    table.push_back(Plain("self_attn.o_proj.bias", TensorRole::kOBias, {hidden}, all));
  }
  if (a.qk_norm != ops::QkNorm::kNone) {
    const bool per_head = a.qk_norm == ops::QkNorm::kPerHead;
    const int64_t q_width = per_head ? a.head_dim : q;
    const int64_t k_width = per_head ? a.head_dim : kv;
    const ShardAxis shard = per_head ? ShardAxis::kReplicate : rows;
    table.push_back(Plain("self_attn.q_norm.weight", TensorRole::kQNorm, {q_width}, all, shard));
    table.push_back(Plain("self_attn.k_norm.weight", TensorRole::kKNorm, {k_width}, all, shard));
  }
  table.push_back(
      Plain("post_attention_layernorm.weight", TensorRole::kPostAttentionNorm, {hidden}, all));
}

// The tensors beside the norms around the block: what is made of a low rank is replicated, what
// makes heads is cut by heads.
void AddLatentAttentionTensors(ModelSpec& spec) {
  const AttentionSpec& a = spec.attention;
  const LatentSpec& latent = a.latent;
  const int64_t hidden = spec.hidden_size;
  const int64_t q = int64_t{a.num_heads} * a.head_dim;
  const int64_t kv_a = int64_t{latent.kv_rank} + latent.rope_dim;
  const int64_t kv_b = int64_t{a.num_heads} * (latent.nope_dim + latent.value_dim);
  const int64_t values = int64_t{a.num_heads} * latent.value_dim;
  const LayerSet all = LayerSet::kAll;
  const ShardAxis rows = ShardAxis::kRows;
  const ShardAxis whole = ShardAxis::kReplicate;
  std::vector<TensorRule>& table = spec.tensors;
  table.push_back(Plain("input_layernorm.weight", TensorRole::kInputNorm, {hidden}, all));
  if (latent.q_rank == 0) {
    table.push_back(Projection("self_attn.q_proj.weight", TensorRole::kQ, q, hidden, all, rows));
  } else {
    const int64_t rank = latent.q_rank;
    table.push_back(
        Projection("self_attn.q_a_proj.weight", TensorRole::kQA, rank, hidden, all, whole));
    if (a.qkv_bias) {
      table.push_back(Plain("self_attn.q_a_proj.bias", TensorRole::kQABias, {rank}, all));
    }
    table.push_back(Plain("self_attn.q_a_layernorm.weight", TensorRole::kQANorm, {rank}, all));
    table.push_back(Projection("self_attn.q_b_proj.weight", TensorRole::kQB, q, rank, all, rows));
  }
  table.push_back(Projection("self_attn.kv_a_proj_with_mqa.weight", TensorRole::kKvA, kv_a, hidden,
                             all, whole));
  if (a.qkv_bias) {
    table.push_back(Plain("self_attn.kv_a_proj_with_mqa.bias", TensorRole::kKvABias, {kv_a}, all));
  }
  table.push_back(
      Plain("self_attn.kv_a_layernorm.weight", TensorRole::kKvANorm, {latent.kv_rank}, all));
  table.push_back(
      Projection("self_attn.kv_b_proj.weight", TensorRole::kKvB, kv_b, latent.kv_rank, all, rows));
  table.push_back(Projection("self_attn.o_proj.weight", TensorRole::kO, hidden, values, all,
                             ShardAxis::kColumns));
  if (a.output_bias) {
    table.push_back(Plain("self_attn.o_proj.bias", TensorRole::kOBias, {hidden}, all));
  }
  table.push_back(
      Plain("post_attention_layernorm.weight", TensorRole::kPostAttentionNorm, {hidden}, all));
}

void AddDenseFfnTensors(ModelSpec& spec) {
  const int64_t width = spec.dense.intermediate;
  const LayerSet dense = LayerSet::kDense;
  AddGatedFfn(spec, "mlp.", TensorRole::kGate, TensorRole::kUp, TensorRole::kDown, width, dense);
  if (!spec.dense.bias) return;
  const ShardAxis rows = ShardAxis::kRows;
  std::vector<TensorRule>& table = spec.tensors;
  table.push_back(Plain("mlp.gate_proj.bias", TensorRole::kGateBias, {width}, dense, rows));
  table.push_back(Plain("mlp.up_proj.bias", TensorRole::kUpBias, {width}, dense, rows));
  table.push_back(Plain("mlp.down_proj.bias", TensorRole::kDownBias, {spec.hidden_size}, dense));
}

void AddMoeTensors(ModelSpec& spec, const MoeNames& names) {
  const MoeSpec& moe = spec.moe;
  const int64_t hidden = spec.hidden_size;
  spec.tensors.push_back(Plain(names.block + "gate.weight", TensorRole::kRouter,
                               {moe.num_experts, hidden}, LayerSet::kMoe));
  if (moe.choice_bias) {
    spec.tensors.push_back(Plain(names.block + "gate.e_score_correction_bias",
                                 TensorRole::kRouterBias, {moe.num_experts}, LayerSet::kMoe));
  }
  AddGatedFfn(spec, names.block + "experts.{expert}.", TensorRole::kExpertGate,
              TensorRole::kExpertUp, TensorRole::kExpertDown, moe.expert_ffn, LayerSet::kMoe,
              names);
  if (moe.shared_ffn == 0) return;
  AddGatedFfn(spec, names.block + names.shared, TensorRole::kSharedGate, TensorRole::kSharedUp,
              TensorRole::kSharedDown, moe.shared_ffn, LayerSet::kMoe);
  if (moe.shared_gate) {
    spec.tensors.push_back(Plain("mlp.shared_expert_gate.weight", TensorRole::kSharedExpertGate,
                                 {1, hidden}, LayerSet::kMoe));
  }
}

}  // namespace sluice::arch
