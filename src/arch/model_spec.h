#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/weight_source.h"
#include "device/tensor.h"
#include "ops/attention/attention.h"
#include "ops/attention/prepare_qkv.h"
#include "ops/norm/norm.h"
#include "ops/rope/rope.h"
#include "ops/router/router.h"
#include "quant/block_scaled.h"

namespace sluice {

enum class AttentionKind {
  kHeads,   // keys and values of num_kv_heads heads
  kLatent,  // all heads read one latent row a position (arXiv:2405.04434, section 2.1)
};

// Dimensions of AttentionKind::kLatent.
struct LatentSpec {
  int q_rank = 0;         // of the low-rank projection of queries; 0: they are projected at once
  int kv_rank = 0;        // of the latent that keys and values are made from
  int nope_dim = 0;       // of a head's query and key, without position
  int rope_dim = 0;       // behind them, rotated; the key's is shared by all heads
  int value_dim = 0;      // of a head's value
  float norm_eps = 0.0f;  // of the norms over q_rank and kv_rank
};

struct AttentionSpec {
  AttentionKind kind = AttentionKind::kHeads;
  LatentSpec latent;  // for kLatent: head_dim is nope_dim + rope_dim, num_kv_heads is num_heads
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  bool qkv_bias = false;
  bool output_bias = false;
  ops::QkNorm qk_norm = ops::QkNorm::kNone;
  // q, k and v are clamped to [-clip_qkv, clip_qkv], after the q/k norm and before rope.
  std::optional<float> clip_qkv;
  ops::AttentionMask mask = ops::AttentionMask::kCausal;
  int window = 0;              // positions that a row of a windowed layer sees, itself included
  std::vector<bool> windowed;  // [num_layers]; empty: no layer is
  ops::RopeDesc rope;
  float scale = 0.0f;  // of the scores
};

enum class FfnKind { kDense, kMoe };

struct DenseFfnSpec {
  int intermediate = 0;
  bool bias = false;
};

struct MoeSpec {
  int num_experts = 0;  // 0: no layer is kMoe
  int top_k = 0;
  int expert_ffn = 0;  // width of one expert
  ops::RouterScore score = ops::RouterScore::kSoftmax;
  bool renormalize_topk = false;  // divides the chosen scores by their norm
  float topk_norm = 1.0f;         // which one: the p-norm of this p
  int num_groups = 1;             // see ops::RouterDesc
  int top_groups = 1;
  bool choice_bias = false;  // a bias joins the scores for the choice
  float scale = 1.0f;        // multiplies the routing weights
  int shared_ffn = 0;        // width of the expert that every token takes; 0 for none
  bool shared_gate = false;  // its output is multiplied by sigmoid(x . w)
};

// What a tensor is to the decoder. Projections are stored [out, in] as in the checkpoint.
enum class TensorRole {
  kEmbedding,  // [vocab, hidden]
  kFinalNorm,  // [hidden]
  kLmHead,     // [vocab, hidden]; not listed when tied to kEmbedding
  kInputNorm,  // [hidden]
  kQ,          // [num_heads * head_dim, hidden]
  kK,          // [num_kv_heads * head_dim, hidden]
  kV,          // as kK
  kQkv,        // the three behind each other, instead of kQ, kK and kV; kRows cuts each of them
  kO,          // [hidden, num_heads * head_dim]; of values, [hidden, num_heads * value_dim]
  kQBias,
  kKBias,
  kVBias,
  kOBias,
  kQNorm,              // [head_dim] per head, [num_heads * head_dim] full width
  kKNorm,              // [head_dim] per head, [num_kv_heads * head_dim] full width
  kQA,                 // [q_rank, hidden], latent attention
  kQABias,             // [q_rank]
  kQANorm,             // [q_rank]
  kQB,                 // [num_heads * head_dim, q_rank]
  kKvA,                // [kv_rank + rope_dim, hidden]
  kKvABias,            // [kv_rank + rope_dim]
  kKvANorm,            // [kv_rank]
  kKvB,                // [num_heads * (nope_dim + value_dim), kv_rank], a head's key rows first
  kPostAttentionNorm,  // [hidden]; before the feed-forward block
  kGate,               // [intermediate, hidden], dense
  kUp,                 // as kGate
  kDown,               // [hidden, intermediate]
  kGateBias,           // [intermediate]
  kUpBias,             // [intermediate]
  kDownBias,           // [hidden]
  kRouter,             // [num_experts, hidden]
  kRouterBias,         // [num_experts], for the choice only
  kExpertGate,         // [expert_ffn, hidden], one for each expert
  kExpertUp,           // as kExpertGate
  kExpertDown,         // [hidden, expert_ffn]
  kSharedGate,         // [shared_ffn, hidden]
  kSharedUp,           // as kSharedGate
  kSharedDown,         // [hidden, shared_ffn]
  kSharedExpertGate,   // [1, hidden]
};

// How tensor parallelism cuts a tensor of [rows, columns]; vectors have rows only.
enum class ShardAxis { kReplicate, kRows, kColumns };

// Which layers have the tensor; kNone for one that stands outside the layers.
enum class LayerSet { kNone, kAll, kDense, kMoe };

// One line of a family's tensor table.
struct TensorRule {
  std::string name;  // the checkpoint's, with {layer} and {expert} where it has them
  TensorRole role = TensorRole::kEmbedding;
  Shape shape;
  LayerSet layers = LayerSet::kNone;
  ShardAxis shard = ShardAxis::kReplicate;
  bool quantizable = false;  // whether weight quantisation may apply

  // One tensor holds the layer's experts, one behind the other along its first dimension; `shape`
  // is one expert's part.
  bool stacked_experts = false;
  bool transposed = false;  // an expert's part is stored [in, out]

  // Whether there is one for each expert.
  bool PerExpert() const { return stacked_experts || name.find("{expert}") != std::string::npos; }
};

// All that the decoder knows about a model. Plain data.
struct ModelSpec {
  std::string family;  // config.json's model_type
  int vocab_size = 0;
  int hidden_size = 0;
  int num_layers = 0;
  int max_positions = 0;
  // Of the hidden state; the q/k norms are always RMS.
  ops::NormKind norm = ops::NormKind::kRms;
  float norm_eps = 0.0f;
  bool tie_embeddings = false;
  AttentionSpec attention;
  std::vector<FfnKind> ffn;  // [num_layers]
  DenseFfnSpec dense;
  MoeSpec moe;
  std::vector<TensorRule> tensors;
  // Names that a checkpoint may have and that nothing reads; `*` matches any run of characters.
  std::vector<std::string> ignored_tensors;
  std::vector<int> eos_token_ids;
  DType checkpoint_dtype = DType::kF32;
  // Set when projections are stored in it. They are de-quantised as they are loaded.
  std::optional<BlockScaledFormat> block_scaled;

  int NumMoeLayers() const;
  bool HasLayer(LayerSet set, int layer) const;
  bool IsWindowed(int layer) const {
    return !attention.windowed.empty() && attention.windowed[layer];
  }
};

// The checkpoint's name of `rule`; `layer` and `expert` are read only where the name has them.
std::string TensorName(const TensorRule& rule, int layer, int expert);

// The rule of `role`, or nullptr when the model has no such tensor.
const TensorRule* FindRule(const ModelSpec& spec, TensorRole role);

// The checkpoint's shape of the tensor: the rule's, times the experts where they are stacked.
Shape TensorShape(const ModelSpec& spec, const TensorRule& rule);

// "expert_gate", for messages.
const char* TensorRoleName(TensorRole role);

// Every tensor of the model, by the checkpoint's names, in the order of the table.
std::vector<DummySource::Listed> ListTensors(const ModelSpec& spec);

// Counts over the table; the embedding and a head tied to it count once.
uint64_t ParameterCount(const ModelSpec& spec);
// Of them, those that one token uses: all but the experts that it does not choose.
uint64_t ActiveParameterCount(const ModelSpec& spec);
// Bytes of all weights with every tensor stored as `dtype`.
uint64_t WeightBytes(const ModelSpec& spec, DType dtype);
// Bytes of weights that one decoded token reads: everything but the embedding table, of which it
// reads one row (a tied table is read whole, as the head), with top_k of the experts.
uint64_t ActiveBytesPerToken(const ModelSpec& spec, DType dtype);

// Refuses a spec whose fields contradict each other or that no code here runs. Throws
// Error(kUnsupported) naming the field and its value.
void Validate(const ModelSpec& spec);

// Compares the table with what `source` has. Throws Error(kDataLoss) naming tensors that are
// missing, of another shape, or neither listed nor ignored.
void CheckTensors(const ModelSpec& spec, const WeightSource& source);

}  // namespace sluice
