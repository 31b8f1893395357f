#include "moe/moe_layer.h"

#include "moe/streamed_experts.h"
#include "ops/experts/experts.h"
#include "ops/router/norm_router.h"

namespace sluice {
namespace {

// h = norm(x), and what h's tokens are routed to.
Routing Route(const MoeSpec& spec, int layer, const ops::NormDesc& norm,
              ConstTensorView norm_weight, const MoeWeights& weights, ConstTensorView x,
              TensorView h, MoeContext& moe, ops::OpContext& ctx) {
  const Routing chosen = moe.routing.RouterOutput(layer);
  ops::NormRouter({.norm = norm, .router = RouterDescOf(spec)}, x, norm_weight, weights.router,
                  weights.router_bias, h, chosen.weights, chosen.ids, ctx);
  return moe.routing.Settle(layer);
}

// All active experts of rows that the dispatcher brought.
void RunExperts(int layer, ConstTensorView ids, const ExpertRows& rows, MoeContext& moe,
                ops::OpContext& ctx) {
  if (moe.streamed != nullptr) {
    moe.streamed->Run(layer, ids, rows, ctx);
    return;
  }
  const ExpertLayout& layout = moe.experts.layout();
  const TensorView inner =
      ctx.arena.Allocate(ctx.ProductDType(layout.dtype), {rows.y.dim(0), layout.ffn});
  RunSlots(rows, moe.experts.SlotTable(layer), inner, moe.experts, ctx);
}

}  // namespace

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

void RunSlots(const ExpertRows& rows, ConstTensorView slots, TensorView inner,
              const ExpertStore& experts, ops::OpContext& ctx) {
  const auto [gate_up, down] = MatricesOf(experts.layout(), experts.slab());
  ops::GroupedGemm({.epilogue = ops::GroupedEpilogue::kSwiGlu}, rows.x, rows.gather, rows.offsets,
                   slots, gate_up, {}, inner, ctx);
  ops::GroupedGemm({.epilogue = ops::GroupedEpilogue::kNone}, inner, {}, rows.offsets, slots, down,
                   {}, rows.y, ctx);
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

void MoeLayer(const MoeSpec& spec, int layer, const ops::NormDesc& norm,
              ConstTensorView norm_weight, const MoeWeights& weights, TensorView x, MoeContext& moe,
              ops::OpContext& ctx) {
  Arena::Scope scope(ctx.arena);
  const DType product = ctx.ProductDType(moe.experts.layout().dtype);
  const TensorView h = ctx.arena.Allocate(product, x.shape());
  const Routing routing = Route(spec, layer, norm, norm_weight, weights, x, h, moe, ctx);
  const ops::SharedExpert shared{.gate_up = weights.shared_gate_up,
                                 .down = weights.shared_down,
                                 .gate = weights.shared_expert_gate};
  if (moe.experts.AllResident() && moe.experts.num_experts() == spec.num_experts) {
    const auto [gate_up, down] = MatricesOf(moe.experts.layout(), moe.experts.slab());
    ops::Experts(h, routing.ids, routing.weights, moe.experts.SlotTable(layer), gate_up, down,
                 shared, x, ctx);
    return;
  }
  const ExpertRows rows = moe.dispatcher.Dispatch(h, routing.ids, ctx);
  RunExperts(layer, routing.ids, rows, moe, ctx);
  moe.dispatcher.Combine(routing.weights, x, ctx);
  ops::AddSharedExpert(shared, h, x, ctx);
}

}  // namespace sluice
