#include "ops/experts/experts.h"

#include "ops/activation/gated_add.h"
#include "ops/common/checks.h"
#include "ops/experts/experts_kernels.h"
#include "ops/gemm/gemm.h"
#include "ops/permute/dispatch_plan.h"

namespace sluice::ops {
namespace {

// A call whose arguments were checked.
struct Call {
  ConstTensorView x;
  ConstTensorView ids;
  ConstTensorView weights;
  ConstTensorView slots;
  const ExpertMatrix& gate_up;
  const ExpertMatrix& down;
  const SharedExpert& shared;
  TensorView out;
};

void CheckShared(const SharedExpert& shared, int64_t hidden) {
  CheckRank("shared gate_up", shared.gate_up, 2);
  CheckWeights("shared gate_up", shared.gate_up, {shared.gate_up.dim(0), hidden});
  SLUICE_CHECK_EQ(shared.gate_up.dim(0) % 2, 0);
  CheckWeights("shared down", shared.down, {hidden, shared.gate_up.dim(0) / 2});
  if (!shared.gate.empty()) CheckWeights("shared gate", shared.gate, {1, hidden});
}

// The rest is checked by the ops that it is made of.
void CheckCall(const Call& call, const OpContext& context) {
  CheckRank("experts x", call.x, 2);
  CheckRank("experts ids", call.ids, 2);
  CheckRank("experts slots", call.slots, 1);
  const int64_t tokens = call.x.dim(0);
  const int64_t hidden = call.x.dim(1);
  const int64_t top_k = call.ids.dim(1);
  CheckProductInput("experts x", call.x, {tokens, hidden}, context);
  CheckTensor("experts ids", call.ids, DType::kI32, {tokens, top_k});
  CheckTensor("experts weights", call.weights, DType::kF32, {tokens, top_k});
  CheckTensor("experts slots", call.slots, DType::kI32, {call.slots.dim(0)});
  CheckTensor("experts out", call.out, DType::kF32, {tokens, hidden});
  SLUICE_CHECK(call.ids.IsContiguous() && call.weights.IsContiguous());
  SLUICE_CHECK_EQ(call.gate_up.rows, 2 * call.down.cols);
  SLUICE_CHECK_EQ(call.gate_up.cols, hidden);
  SLUICE_CHECK_EQ(call.down.rows, hidden);
  SLUICE_CHECK_EQ(call.gate_up.dtype, call.down.dtype);
  if (!call.shared.gate_up.empty()) CheckShared(call.shared, hidden);
}

[[maybe_unused]] cuda::ExpertsParams RoutedParams(const Call& call) {
  return {.dtype = call.gate_up.dtype,
          .x = call.x.raw(),
          .x_stride = call.x.stride(0),
          .ids = call.ids.data<int32_t>(),
          .weights = call.weights.data<float>(),
          .slots = call.slots.data<int32_t>(),
          .tokens = static_cast<int>(call.x.dim(0)),
          .top_k = static_cast<int>(call.ids.dim(1)),
          .experts = static_cast<int>(call.slots.dim(0)),
          .hidden = static_cast<int>(call.x.dim(1)),
          .ffn = static_cast<int>(call.down.cols),
          .gate_up = {call.gate_up.slab + call.gate_up.offset, call.gate_up.slot_stride},
          .down = {call.down.slab + call.down.offset, call.down.slot_stride},
          .shared_ffn = 0,
          .shared_gate_up = nullptr,
          .shared_down = nullptr,
          .shared_gate = nullptr,
          .inner = nullptr,
          .shared_inner = nullptr,
          .shared_weights = nullptr,
          .out = call.out.data<float>(),
          .out_stride = call.out.stride(0)};
}

[[maybe_unused]] void AddShared(const SharedExpert& shared, cuda::ExpertsParams& params) {
  params.shared_ffn = static_cast<int>(shared.down.dim(1));
  params.shared_gate_up = shared.gate_up.raw();
  params.shared_down = shared.down.raw();
  params.shared_gate = shared.gate.empty() ? nullptr : shared.gate.raw();
}

[[maybe_unused]] bool AllOf(const SharedExpert& shared, DType dtype) {
  return shared.gate_up.dtype() == dtype && shared.down.dtype() == dtype &&
         (shared.gate.empty() || shared.gate.dtype() == dtype);
}

// What of a call two launches did.
enum class Done { kNothing, kRouted, kAll };

Done RunFewTokens(const Call& call, OpContext& context) {
  if constexpr (kCudaBuilt) {
    if (!context.OnCuda() || context.batch_invariant || call.x.dtype() != call.gate_up.dtype) {
      return Done::kNothing;
    }
    const CudaDeviceInfo& device = context.cuda->device();
    const cuda::ExpertsParams routed = RoutedParams(call);
    if (!cuda::TakesFewTokens(routed, device)) return Done::kNothing;
    cuda::ExpertsParams params = routed;
    Done done = Done::kAll;
    if (!call.shared.gate_up.empty()) {
      AddShared(call.shared, params);
      if (!AllOf(call.shared, params.dtype) || !cuda::TakesFewTokens(params, device)) {
        params = routed;
        done = Done::kRouted;
      }
    }
    const int64_t tokens = params.tokens;
    Arena& arena = context.arena;
    params.inner = arena.Allocate(params.dtype, {tokens * params.top_k, params.ffn}).raw();
    params.shared_inner = arena.Allocate(params.dtype, {tokens, params.shared_ffn}).raw();
    params.shared_weights = arena.Allocate(DType::kF32, {tokens}).data<float>();
    cuda::ExpertsOfFewTokens(params, *context.cuda);
    return done;
  }
  return Done::kNothing;
}

void RunRouted(const Call& call, OpContext& context) {
  const int64_t rows = call.ids.NumElements();
  const DispatchPlan plan =
      BuildDispatchPlan(call.ids, static_cast<int>(call.slots.dim(0)), context);
  const TensorView inner =
      context.arena.Allocate(context.ProductDType(call.gate_up.dtype), {rows, call.down.cols});
  const TensorView y = context.arena.Allocate(DType::kF32, {rows, call.x.dim(1)});
  GroupedGemm({.epilogue = GroupedEpilogue::kSwiGlu}, call.x, plan.row_token, plan.offsets,
              call.slots, call.gate_up, {}, inner, context);
  GroupedGemm({.epilogue = GroupedEpilogue::kNone}, inner, {}, plan.offsets, call.slots, call.down,
              {}, y, context);
  Combine(y, plan.row_of, call.weights, call.out, context);
}

}  // namespace

void Experts(ConstTensorView x, ConstTensorView ids, ConstTensorView weights, ConstTensorView slots,
             const ExpertMatrix& gate_up, const ExpertMatrix& down, const SharedExpert& shared,
             TensorView out, OpContext& context) {
  const Call call{x, ids, weights, slots, gate_up, down, shared, out};
  CheckCall(call, context);
  if (x.dim(0) == 0) return;
  const Arena::Scope scope(context.arena);
  const Done done = RunFewTokens(call, context);
  if (done == Done::kNothing) RunRouted(call, context);
  if (done != Done::kAll) AddSharedExpert(shared, x, out, context);
}

void AddSharedExpert(const SharedExpert& shared, ConstTensorView x, TensorView out,
                     OpContext& context) {
  if (shared.gate_up.empty()) return;
  CheckRank("shared x", x, 2);
  CheckShared(shared, x.dim(1));
  const int64_t tokens = x.dim(0);
  const int64_t width = shared.down.dim(1);
  const Arena::Scope scope(context.arena);
  const TensorView inner =
      context.arena.Allocate(context.ProductDType(shared.down.dtype()), {tokens, width});
  Gemm({.epilogue = GemmEpilogue::kSwiGlu}, x, shared.gate_up, {}, inner, context);
  if (shared.gate.empty()) {
    Gemm({.accumulate = true}, inner, shared.down, {}, out, context);
    return;
  }
  const TensorView y = context.arena.Allocate(DType::kF32, {tokens, out.dim(1)});
  const TensorView gate = context.arena.Allocate(DType::kF32, {tokens, 1});
  Gemm({}, inner, shared.down, {}, y, context);
  Gemm({}, x, shared.gate, {}, gate, context);
  SigmoidGatedAdd(gate, y, out, context);
}

}  // namespace sluice::ops
