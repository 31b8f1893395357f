#include "ops/experts/experts.h"

#include "ops/activation/gated_add.h"
#include "ops/activation/silu_mul.h"
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

[[maybe_unused]] cuda::ExpertsParams CudaParams(const Call& call) {
  const SharedExpert& shared = call.shared;
  const bool has_shared = !shared.gate_up.empty();
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
          .shared_ffn = has_shared ? static_cast<int>(shared.down.dim(1)) : 0,
          .shared_gate_up = has_shared ? shared.gate_up.raw() : nullptr,
          .shared_down = has_shared ? shared.down.raw() : nullptr,
          .shared_gate = shared.gate.empty() ? nullptr : shared.gate.raw(),
          .inner = nullptr,
          .shared_inner = nullptr,
          .shared_weights = nullptr,
          .out = call.out.data<float>(),
          .out_stride = call.out.stride(0)};
}

// Whether two launches did the whole call.
bool RunFewTokens(const Call& call, OpContext& context) {
  if constexpr (kCudaBuilt) {
    if (!context.OnCuda()) return false;
    const bool one_dtype =
        call.x.dtype() == call.gate_up.dtype &&
        (call.shared.gate_up.empty() || (call.shared.gate_up.dtype() == call.gate_up.dtype &&
                                         call.shared.down.dtype() == call.gate_up.dtype)) &&
        (call.shared.gate.empty() || call.shared.gate.dtype() == call.x.dtype());
    cuda::ExpertsParams params = CudaParams(call);
    if (!one_dtype || !cuda::TakesFewTokens(params, context.cuda->device())) return false;
    const int64_t tokens = params.tokens;
    Arena& arena = context.arena;
    params.inner = arena.Allocate(params.dtype, {tokens * params.top_k, params.ffn}).raw();
    params.shared_inner = arena.Allocate(params.dtype, {tokens, params.shared_ffn}).raw();
    params.shared_weights = arena.Allocate(DType::kF32, {tokens}).data<float>();
    cuda::ExpertsOfFewTokens(params, *context.cuda);
    return true;
  }
  return false;
}

}  // namespace

void Experts(ConstTensorView x, ConstTensorView ids, ConstTensorView weights, ConstTensorView slots,
             const ExpertMatrix& gate_up, const ExpertMatrix& down, const SharedExpert& shared,
             TensorView out, OpContext& context) {
  const Call call{x, ids, weights, slots, gate_up, down, shared, out};
  CheckCall(call, context);
  const int64_t rows = ids.NumElements();
  if (x.dim(0) == 0) return;
  const Arena::Scope scope(context.arena);
  if (RunFewTokens(call, context)) return;
  const DispatchPlan plan = BuildDispatchPlan(ids, static_cast<int>(slots.dim(0)), context);
  const TensorView inner =
      context.arena.Allocate(context.ProductDType(gate_up.dtype), {rows, down.cols});
  const TensorView y = context.arena.Allocate(DType::kF32, {rows, x.dim(1)});
  GroupedGemm({.epilogue = GroupedEpilogue::kSwiGlu}, x, plan.row_token, plan.offsets, slots,
              gate_up, {}, inner, context);
  GroupedGemm({.epilogue = GroupedEpilogue::kNone}, inner, {}, plan.offsets, slots, down, {}, y,
              context);
  Combine(y, plan.row_of, weights, out, context);
  AddSharedExpert(shared, x, out, context);
}

void AddSharedExpert(const SharedExpert& shared, ConstTensorView x, TensorView out,
                     OpContext& context) {
  if (shared.gate_up.empty()) return;
  CheckRank("shared x", x, 2);
  CheckShared(shared, x.dim(1));
  const int64_t tokens = x.dim(0);
  const int64_t width = shared.down.dim(1);
  const Arena::Scope scope(context.arena);
  const TensorView gate_up = context.arena.Allocate(DType::kF32, {tokens, 2 * width});
  const TensorView inner =
      context.arena.Allocate(context.ProductDType(shared.down.dtype()), {tokens, width});
  Gemm({}, x, shared.gate_up, {}, gate_up, context);
  SiluMul(gate_up, inner, context);
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
