#include "ops/gemm/norm_gemm.h"

#include "ops/common/checks.h"
#include "ops/gemm/gemm_arguments.h"
#include "ops/gemm/norm_gemm_kernels.h"

namespace sluice::ops {

void NormGemm(const NormGemmDesc& desc, ConstTensorView x, ConstTensorView norm_weight,
              ConstTensorView w, ConstTensorView bias, TensorView out, OpContext& context) {
  const GemmDesc product{.epilogue = desc.epilogue};
  CheckGemm(product, x, w, bias, out, context);
  CheckTensor("norm_gemm x", x, DType::kF32, {x.dim(0), w.dim(1)});
  CheckTensor("norm_gemm norm_weight", norm_weight, DType::kF32, {w.dim(1)});
  if (out.NumElements() == 0) return;
  if constexpr (kCudaBuilt) {
    if (context.OnCuda()) {
      const cuda::NormGemmParams params{.gemm = CudaParams(product, x, w, bias, out, context),
                                        .norm = desc.norm,
                                        .norm_weight = norm_weight.data<float>()};
      if (cuda::FusesNorm(params, *context.cuda)) return cuda::NormGemm(params, *context.cuda);
    }
  }
  const Arena::Scope scope(context.arena);
  const TensorView normed =
      context.arena.Allocate(context.ProductDType(w.dtype()), {x.dim(0), x.dim(1)});
  Norm(desc.norm, x, norm_weight, normed, context);
  Gemm(product, normed, w, bias, out, context);
}

}  // namespace sluice::ops
