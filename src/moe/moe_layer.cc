#include "moe/moe_layer.h"

#include <algorithm>
#include <vector>

#include "base/check.h"
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

// Runs the experts that `slots` [local experts] has a slot for over their rows. The others' rows
// are left alone.
void RunSlots(const ExpertRows& rows, ConstTensorView slots, TensorView inner, MoeContext& moe,
              ops::OpContext& ctx) {
  const auto [gate_up, down] = MatricesOf(moe.experts.layout(), moe.experts.slab());
  ops::GroupedGemm({.epilogue = ops::GroupedEpilogue::kSwiGlu}, rows.x, rows.gather, rows.offsets,
                   slots, gate_up, {}, inner, ctx);
  ops::GroupedGemm({.epilogue = ops::GroupedEpilogue::kNone}, inner, {}, rows.offsets, slots, down,
                   {}, rows.y, ctx);
}

// The experts of `wave`, read into slots if they are not there.
void RunWave(int layer, const ExpertRows& rows, std::span<const int32_t> wave, TensorView inner,
             MoeContext& moe, ops::OpContext& ctx) {
  const ExpertLease lease = moe.experts.Acquire(layer, wave);
  const TensorView slots = ctx.arena.Allocate(DType::kI32, {rows.offsets.dim(0) - 1});
  int32_t* slot = slots.data<int32_t>();
  std::fill_n(slot, slots.NumElements(), -1);
  for (size_t i = 0; i < wave.size(); ++i) slot[wave[i]] = lease.slots()[i];
  RunSlots(rows, slots, inner, moe, ctx);
  lease.CheckUnchanged();
}

// All active experts: at once where each has a slot, else in as few waves as the slots allow.
void RunExperts(int layer, const ExpertRows& rows, MoeContext& moe, ops::OpContext& ctx) {
  const ExpertLayout& layout = moe.experts.layout();
  const TensorView inner =
      ctx.arena.Allocate(ctx.ProductDType(layout.dtype), {rows.y.dim(0), layout.ffn});
  if (moe.experts.AllResident()) {
    RunSlots(rows, moe.experts.SlotTable(layer), inner, moe, ctx);
    return;
  }
  SLUICE_CHECK(!ctx.OnCuda());
  const int32_t* offsets = rows.offsets.data<int32_t>();
  std::vector<int32_t> active;
  for (int32_t e = 0; e + 1 < rows.offsets.dim(0); ++e) {
    if (offsets[e + 1] > offsets[e]) active.push_back(e);
  }
  const size_t wave_size = moe.experts.num_slots();
  for (size_t begin = 0; begin < active.size(); begin += wave_size) {
    const size_t count = std::min(wave_size, active.size() - begin);
    RunWave(layer, rows, std::span(active).subspan(begin, count), inner, moe, ctx);
  }
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
  RunExperts(layer, rows, moe, ctx);
  moe.dispatcher.Combine(routing.weights, x, ctx);
  ops::AddSharedExpert(shared, h, x, ctx);
}

}  // namespace sluice
