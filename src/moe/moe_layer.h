#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "arch/model_spec.h"
#include "device/buffer.h"
#include "device/tensor.h"
#include "moe/step_routing.h"
#include "moe/token_dispatcher.h"
#include "offload/expert_store.h"
#include "ops/common/op_context.h"
#include "ops/grouped_gemm/grouped_gemm.h"
#include "ops/norm/norm.h"
#include "ops/router/router.h"

namespace sluice {

// A MoE layer's weights beside its routed experts, which are ExpertStore's.
struct MoeWeights {
  ConstTensorView router;              // [experts, hidden]
  ConstTensorView router_bias;         // [experts] f32; empty where the choice has none
  ConstTensorView shared_gate_up;      // [2 * shared_ffn, hidden]; empty without a shared expert
  ConstTensorView shared_down;         // [hidden, shared_ffn]
  ConstTensorView shared_expert_gate;  // [1, hidden]; empty when the shared expert is not gated
};

class StreamedExperts;

// What the MoE layers of one model work with. All references outlive the step.
//
// On CUDA the host sees the routing only where it must: for a source other than the model itself,
// an observer, or where not every expert has a slot. Then each layer waits for the device once.
struct MoeContext {
  ExpertStore& experts;
  TokenDispatcher& dispatcher;
  StepRouting& routing;
  StreamedExperts* streamed = nullptr;  // runs the experts where not every one has a slot
};

// How the layers of a model choose experts.
ops::RouterDesc RouterDescOf(const MoeSpec& spec);

// The matrices of every expert, as they lie in the slots of a slab.
struct ExpertMatrices {
  ops::ExpertMatrix gate_up;
  ops::ExpertMatrix down;
};
ExpertMatrices MatricesOf(const ExpertLayout& layout, const std::byte* slab);

// Runs the experts that `slots` [local experts] i32 has a slot of the slab for, at most `active`,
// over their rows; those of -1 are left alone. `inner` [R, ffn] is scratch: its rows are the
// experts' own.
void RunSlots(const ExpertRows& rows, ConstTensorView slots, int active, TensorView inner,
              const ExpertLayout& layout, const std::byte* slab, ops::OpContext& ctx);

// x += experts(h) + shared expert(h), h = norm(x), in two halves, so that rows may be routed in
// parts. x [T, hidden] f32, h likewise or on CUDA of the weights' dtype.
class MoeLayer {
 public:
  // norm_weight [hidden] f32. All references outlive this.
  MoeLayer(const MoeSpec& spec, int layer, const ops::NormDesc& norm, ConstTensorView norm_weight,
           const MoeWeights& weights, MoeContext& moe, ops::OpContext& ctx)
      : spec_(spec),
        layer_(layer),
        norm_(norm),
        norm_weight_(norm_weight),
        weights_(weights),
        moe_(moe),
        ctx_(ctx) {}

  // Writes rows [begin, end) of h, and chooses their experts. Each row belongs to one call.
  void Route(ConstTensorView x, int64_t begin, int64_t end, TensorView h);

  // Once all rows are routed, which are the step's first. Where every expert is on this rank and in
  // a slot, ops::Experts does it all; else rows go through the dispatcher.
  void RunExperts(ConstTensorView h, TensorView x);

 private:
  void RunRows(const ExpertRows& rows);

  const MoeSpec& spec_;
  const int layer_;
  const ops::NormDesc& norm_;
  const ConstTensorView norm_weight_;
  const MoeWeights& weights_;
  MoeContext& moe_;
  ops::OpContext& ctx_;
};

}  // namespace sluice
