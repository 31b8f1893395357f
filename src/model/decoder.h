#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "arch/model_spec.h"
#include "base/function_ref.h"
#include "device/tensor.h"
#include "kv/page_pool.h"
#include "model/model_weights.h"
#include "moe/moe_layer.h"
#include "ops/attention/attention.h"
#include "ops/common/op_context.h"

namespace sluice {

// Runs what a layer queues from its input to its router's choice: as it is, or in its place what
// was recorded of a step that queues the same.
class LayerRecorder {
 public:
  virtual ~LayerRecorder() = default;
  virtual void Run(int layer, FunctionRef<void()> queue) = 0;
};

// The rows of one step, sequence after sequence.
struct DecoderInput {
  ConstTensorView tokens;     // [T] i32
  ConstTensorView positions;  // [T] i32 absolute
  ConstTensorView kv_slots;   // [T] i64: page * page_size + offset that row t's K/V are written to
  ops::AttentionBatch attention;  // the rows' sequences
  // The same rows in parts of whole sequences, one behind the other; or none. The parts take turns
  // before a layer's experts run: while one attends, what those before it chose is on its way.
  std::vector<DecoderInput> parts = {};
  LayerRecorder* recorder = nullptr;  // null where nothing of it is recorded, as of parts
};

// The model: embedding, layers, final norm and head, for every family. What differs between
// families is in the spec. Stateless between steps but for the pages it writes; all references
// outlive it.
class Decoder {
 public:
  Decoder(const ModelSpec& spec, const ModelWeights& weights)
      : spec_(spec), weights_(weights), norm_{.kind = spec.norm, .eps = spec.norm_eps} {}

  // Rows on their way through the layers, in the arena.
  struct Stream {
    TensorView x;        // [T, hidden] f32
    TensorView cos_sin;  // [T, 2, rotary_dim / 2] f32, ops::RopeAngles of the rows' positions
    Stream First(int64_t rows) const { return {x.Slice(0, rows), cos_sin.Slice(0, rows)}; }
  };
  // The rows' embeddings.
  Stream Embed(const DecoderInput& input, ops::OpContext& ctx) const;

  // Runs layers [begin, end): writes each row's keys and values to its slot. Behind the last layer
  // x are the hidden states before the final norm. `moe` may be null for a dense model.
  void RunLayers(int begin, int end, const DecoderInput& input, const Stream& rows,
                 const PagePool& pages, MoeContext* moe, ops::OpContext& ctx) const;

  // One layer's x += attention(norm(x)), the first half of it; x and cos_sin as Stream's.
  void AttentionLayer(int layer, const DecoderInput& input, ConstTensorView cos_sin,
                      const PagePool& pages, TensorView x, ops::OpContext& ctx) const;

  // Logits of the given rows behind the last layer: of the head on the final norm, [rows, vocab]
  // f32 in the arena. rows [n] i32.
  TensorView Logits(ConstTensorView hidden, ConstTensorView rows, ops::OpContext& ctx) const;

 private:
  void Attend(int layer, const DecoderInput& input, ConstTensorView cos_sin, const PagePool& pages,
              TensorView x, ops::OpContext& ctx) const;
  void AttendLatent(int layer, const DecoderInput& input, ConstTensorView cos_sin,
                    const PagePool& pages, TensorView x, ops::OpContext& ctx) const;
  void FeedForward(int layer, TensorView x, ops::OpContext& ctx) const;
  void AttendAndMoe(int layer, const DecoderInput& input, ConstTensorView cos_sin,
                    const PagePool& pages, TensorView x, MoeContext& moe,
                    ops::OpContext& ctx) const;

  const ModelSpec& spec_;
  const ModelWeights& weights_;
  const ops::NormDesc norm_;  // of the hidden state
};

}  // namespace sluice
