#pragma once

#include "ops/gemm/gemm_kernels.h"
#include "ops/norm/norm.h"

namespace sluice::ops::cuda {

// A whole NormGemm: that of norm(x), with x of f32.
struct NormGemmParams {
  GemmParams gemm;
  NormDesc norm;
  const float* norm_weight;  // [depth]
};
// Whether NormGemm takes it: where every block can norm the rows for itself at no cost.
bool FusesNorm(const NormGemmParams& params, const CudaStream& stream);
void NormGemm(const NormGemmParams& params, CudaStream& stream);

}  // namespace sluice::ops::cuda
