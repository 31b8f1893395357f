#pragma once

#include "device/buffer.h"
#include "device/cuda_stream.h"
#include "ops/gemm/gemm_kernels.h"
#include "ops/gemm/norm_gemm_kernels.h"

// The forms that a product takes on CUDA. GemmFewRows and GemmTiles want w of bf16 or f16 and K a
// multiple of 8, with the rows of x and w at multiples of 16 bytes.
namespace sluice::ops::cuda {

// Any shape, alignment and mixture of dtypes, at a fraction of the others' speed.
void GemmPlain(const GemmParams& params, CudaStream& stream);

// Rows of x up to which GemmFewRows is the fastest.
inline constexpr int64_t kFewRows = 16;

// Up to kFewRows rows of x, f32 or of w's dtype; with SwiGLU too. Memory-bound: weights go past
// shared memory into the tensor cores' registers, each once.
void GemmFewRows(const GemmParams& params, CudaStream& stream);

// The same of norm(x), with x of f32, where FewRowsTakesNorm.
bool FewRowsTakesNorm(const GemmParams& params, const CudaStream& stream);
void NormGemmFewRows(const NormGemmParams& params, CudaStream& stream);

// Any number of rows of x, which is of w's dtype. Scratch as in Gemm.
void GemmTiles(const GemmParams& params, Arena& arena, CudaStream& stream);

}  // namespace sluice::ops::cuda
