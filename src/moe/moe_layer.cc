#include "moe/moe_layer.h"

#include "moe/streamed_experts.h"
#include "ops/experts/experts.h"
#include "ops/router/norm_router.h"

namespace sluice {
ExpertMatrices MatricesOf(const ExpertLayout& layout, const std::byte* slab) {
  const ops::ExpertMatrix gate_up{.slab = slab,
                                  .slot_stride = layout.SlotBytes(),
                                  .offset = 0,
                                  .dtype = layout.dtype,
                                  .rows = 2 * layout.ffn,
                                  .cols = layout.hidden};
  ops::ExpertMatrix down = gate_up;
  down.offset = layout.DownOffset();
  down.rows = layout.hidden;
  down.cols = layout.ffn;
  return {gate_up, down};
}

void RunSlots(const ExpertRows& rows, ConstTensorView slots, int active, TensorView inner,
              const ExpertLayout& layout, const std::byte* slab, ops::OpContext& ctx) {
  const auto [gate_up, down] = MatricesOf(layout, slab);
  ops::GroupedGemm({.epilogue = ops::GroupedEpilogue::kSwiGlu, .active_groups = active}, rows.x,
                   rows.gather, rows.offsets, slots, gate_up, {}, inner, ctx);
  ops::GroupedGemm({.epilogue = ops::GroupedEpilogue::kNone, .active_groups = active}, inner, {},
                   rows.offsets, slots, down, {}, rows.y, ctx);
}

ops::RouterDesc RouterDescOf(const MoeSpec& spec) {
  return {.num_experts = spec.num_experts,
          .top_k = spec.top_k,
          .score = spec.score,
          .num_groups = spec.num_groups,
          .top_groups = spec.top_groups,
          .renormalize_topk = spec.renormalize_topk,
          .topk_norm = spec.topk_norm,
          .scale = spec.scale};
}

void MoeLayer::Route(ConstTensorView x, int64_t begin, int64_t end, TensorView h) {
  const Routing chosen = moe_.routing.RouterOutput(layer_);
  ops::NormRouter({.norm = norm_, .router = RouterDescOf(spec_)}, x.Slice(begin, end), norm_weight_,
                  weights_.router, weights_.router_bias, h.Slice(begin, end),
                  chosen.weights.Slice(begin, end), chosen.ids.Slice(begin, end), ctx_);
  moe_.routing.Settle(layer_, begin, end);
  const bool is_part = end - begin < x.dim(0);
  if (moe_.streamed != nullptr && is_part) {
    const Routing settled = moe_.routing.Settled(layer_);
    moe_.streamed->Announce(layer_, settled.ids.Slice(begin, end), ctx_);
  }
}

void MoeLayer::RunExperts(ConstTensorView h, TensorView x) {
  const Routing settled = moe_.routing.Settled(layer_);
  const int64_t tokens = x.dim(0);  // of a step's, which not all go through the layer
  const Routing routing = {.weights = settled.weights.Slice(0, tokens),
                           .ids = settled.ids.Slice(0, tokens)};
  const ops::SharedExpert shared{.gate_up = weights_.shared_gate_up,
                                 .down = weights_.shared_down,
                                 .gate = weights_.shared_expert_gate};
  if (moe_.experts.AllResident() && moe_.experts.num_experts() == spec_.num_experts) {
    const auto [gate_up, down] = MatricesOf(moe_.experts.layout(), moe_.experts.slab());
    ops::Experts(h, routing.ids, routing.weights, moe_.experts.SlotTable(layer_), gate_up, down,
                 shared, x, ctx_);
    return;
  }
  if (moe_.streamed != nullptr) moe_.streamed->Choose(layer_, routing.ids, h, ctx_);
  const ExpertRows rows = moe_.dispatcher.Dispatch(h, routing.ids, ctx_);
  RunRows(rows);
  moe_.dispatcher.Combine(routing.weights, x, ctx_);
  ops::AddSharedExpert(shared, h, x, ctx_);
}

// Rows that the dispatcher brought.
void MoeLayer::RunRows(const ExpertRows& rows) {
  if (moe_.streamed != nullptr) {
    moe_.streamed->Run(rows, ctx_);
    return;
  }
  const ExpertLayout& layout = moe_.experts.layout();
  const TensorView inner =
      ctx_.arena.Allocate(ctx_.ProductDType(layout.dtype), {rows.y.dim(0), layout.ffn});
  RunSlots(rows, moe_.experts.SlotTable(layer_), moe_.experts.num_experts(), inner, layout,
           moe_.experts.slab(), ctx_);
}

}  // namespace sluice
