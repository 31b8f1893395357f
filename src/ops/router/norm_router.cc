#include "ops/router/norm_router.h"

#include "ops/common/checks.h"
#include "ops/gemm/gemm.h"
#include "ops/router/norm_router_kernels.h"

namespace sluice::ops {

void NormRouter(const NormRouterDesc& desc, ConstTensorView x, ConstTensorView norm_weight,
                ConstTensorView matrix, ConstTensorView bias, TensorView h, TensorView weights,
                TensorView ids, OpContext& context) {
  CheckRank("norm_router x", x, 2);
  const int64_t tokens = x.dim(0);
  const int64_t width = x.dim(1);
  const int64_t experts = desc.router.num_experts;
  CheckTensor("norm_router x", x, DType::kF32, {tokens, width});
  CheckTensor("norm_router norm_weight", norm_weight, DType::kF32, {width});
  CheckWeights("norm_router matrix", matrix, {experts, width});
  CheckProductInput("norm_router h", h, {tokens, width}, context);
  const Arena::Scope scope(context.arena);
  const TensorView logits = context.arena.Allocate(DType::kF32, {tokens, experts});
  if constexpr (kCudaBuilt) {
    if (context.OnCuda() && !context.batch_invariant && h.dtype() == matrix.dtype()) {
      const cuda::NormRouterParams params{
          .router = MakeRouterParams(desc.router, logits, bias, weights, ids, {}),
          .norm = desc.norm,
          .x = x.data<float>(),
          .x_stride = x.stride(0),
          .norm_weight = norm_weight.data<float>(),
          .matrix = matrix.raw(),
          .dtype = matrix.dtype(),
          .width = width,
          .h = h.raw(),
          .h_stride = h.stride(0)};
      if (cuda::FusesNormRouter(params, context.cuda->device())) {
        cuda::NormRouter(params, logits.data<float>(), *context.cuda);
        return;
      }
    }
  }
  Norm(desc.norm, x, norm_weight, h, context);
  Gemm({}, h, matrix, {}, logits, context);
  Router(desc.router, logits, bias, weights, ids, {}, context);
}

}  // namespace sluice::ops
