#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "arch/model_spec.h"
#include "base/thread_pool.h"
#include "checkpoint/weight_source.h"
#include "device/buffer.h"
#include "device/cuda_stream.h"
#include "moe/moe_layer.h"
#include "offload/expert_store.h"

namespace sluice {

// Latent attention's own weights. kv_b is split by heads: k_up, transposed, leads a query to the
// latent's space and v_up leads the latent that a head attended to its values.
struct LatentWeights {
  // The query's projection, or its part to the low rank, then the latent's:
  // [q_rank, or heads * head_dim without one, + kv_rank + rope_dim, hidden].
  ConstTensorView q_kv_a;
  ConstTensorView q_kv_a_bias;  // [the same]; 0 where the query's projection has none
  ConstTensorView q_a_norm;     // [q_rank]
  ConstTensorView q_b;          // [heads * head_dim, q_rank]
  ConstTensorView kv_a_norm;    // [kv_rank]
  ConstTensorView k_up;         // [heads, kv_rank, nope_dim]
  ConstTensorView v_up;         // [heads, value_dim, kv_rank]
};

// One layer's weights as the Decoder reads them. Projections that share an input lie behind each
// other as one matrix. Matrices have the model's dtype; norms and biases are f32. A view is empty
// where the spec has no such tensor.
struct LayerWeights {
  ConstTensorView input_norm;           // [hidden]
  ConstTensorView qkv;                  // [(heads + 2 * kv_heads) * head_dim, hidden]
  ConstTensorView qkv_bias;             // [(heads + 2 * kv_heads) * head_dim]
  ConstTensorView q_norm;               // [head_dim] per head, or [heads * head_dim]
  ConstTensorView k_norm;               // [head_dim] per head, or [kv_heads * head_dim]
  LatentWeights latent;                 // of AttentionKind::kLatent, instead of those above
  ConstTensorView o;                    // [hidden, heads * head_dim], or of value_dim
  ConstTensorView o_bias;               // [hidden]
  ConstTensorView post_attention_norm;  // [hidden]
  ConstTensorView gate_up;              // [2 * intermediate, hidden], dense layers
  ConstTensorView gate_up_bias;         // [2 * intermediate]
  ConstTensorView down;                 // [hidden, intermediate], dense layers
  ConstTensorView down_bias;            // [hidden]
  MoeWeights moe;                       // MoE layers
};

// Told of bytes that were read, piece by piece, from loading threads, several at once.
using OnBytesRead = std::function<void(int64_t bytes)>;

// Every weight of a model but its routed experts, in host memory or on a device.
class ModelWeights {
 public:
  // Reads what spec.tensors lists, converting to `dtype`; onto `stream`'s device where there is
  // one. Throws Error(kDataLoss) for a tensor that is missing or has another shape, naming it.
  ModelWeights(const ModelSpec& spec, const WeightSource& source, DType dtype, ThreadPool& pool,
               const OnBytesRead& on_read = {}, CudaStream* stream = nullptr);

  const ConstTensorView& embedding() const { return embedding_; }    // [vocab, hidden]
  const ConstTensorView& final_norm() const { return final_norm_; }  // [hidden]
  const ConstTensorView& lm_head() const { return lm_head_; }        // [vocab, hidden]
  const LayerWeights& layer(int i) const { return layers_[i]; }
  uint64_t NumBytes() const;

 private:
  class Builder;
  std::vector<Tensor> storage_;
  ConstTensorView embedding_;
  ConstTensorView final_norm_;
  ConstTensorView lm_head_;
  std::vector<LayerWeights> layers_;
};

// Routed experts out of a checkpoint, for ExpertStore. Both arguments must outlive it.
class CheckpointExperts : public ExpertSource {
 public:
  CheckpointExperts(const ModelSpec& spec, const WeightSource& source, OnBytesRead on_read = {});
  void Read(int layer, int expert, const ExpertSlotView& target) const override;

 private:
  void ReadMatrix(const TensorRule& rule, int layer, int expert, TensorView target) const;

  const WeightSource& source_;
  const OnBytesRead on_read_;
  const TensorRule& gate_;
  const TensorRule& up_;
  const TensorRule& down_;
  const ModelSpec& spec_;
};

// The layers of `spec` that have routed experts, ascending.
std::vector<int> MoeLayers(const ModelSpec& spec);

// How one of the model's experts lies in a slot.
ExpertLayout ExpertLayoutOf(const ModelSpec& spec, DType dtype);

}  // namespace sluice
