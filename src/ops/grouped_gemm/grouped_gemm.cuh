#pragma once

#include "ops/common/cuda/math.cuh"
#include "ops/common/cuda/mma.cuh"
#include "ops/grouped_gemm/grouped_gemm_kernels.h"

// What the kernels of GroupedGemm share.
namespace sluice::ops::cuda {

template <class T>
__device__ __forceinline__ const T* MatrixOf(const GroupedParams& p, int32_t slot) {
  return reinterpret_cast<const T*>(p.slab + slot * p.slot_stride);
}

// The row of x that row `row` multiplies.
template <class T>
__device__ __forceinline__ const T* RowOfX(const GroupedParams& p, int64_t row) {
  const int64_t source = p.gather == nullptr ? row : p.gather[row];
  return static_cast<const T*>(p.x) + source * p.x_stride;
}

__device__ __forceinline__ float SwiGlu(float gate, float up) {
  return gate / (1.0f + expf(-gate)) * up;
}

// What is added to a sum before the epilogue; `n` is a row of the matrix.
__device__ __forceinline__ float AddendAt(const GroupedParams& p, int64_t row, int64_t n) {
  return p.addend == nullptr ? 0.0f : p.addend[row * p.addend_stride + n];
}

// out[row][column] = value; `out` is f32 or T.
template <class T>
__device__ __forceinline__ void StoreOut(const GroupedParams& p, int64_t row, int64_t column,
                                         float value) {
  const int64_t at = row * p.out_stride + column;
  if (p.out_dtype == DType::kF32) {
    static_cast<float*>(p.out)[at] = value;
  } else {
    static_cast<T*>(p.out)[at] = FromFloat<T>(value);
  }
}

// sums += the products of 16 rows of a matrix and 8 rows of x over 32 k, of which a lane has 8
// consecutive ones: those from 8 (lane % 4) on, of rows lane / 4 (`low`) and lane / 4 + 8 (`high`)
// of the matrix and lane / 4 of x. Which k a lane's elements of a product stand for is free as long
// as both sides agree; kernels whose sums are to have the same bits agree as well.
template <class T>
__device__ __forceinline__ void MultiplyPieces(float (&sums)[4], const int4& low, const int4& high,
                                               const int4& x) {
  const uint32_t first[4] = {static_cast<uint32_t>(low.x), static_cast<uint32_t>(high.x),
                             static_cast<uint32_t>(low.y), static_cast<uint32_t>(high.y)};
  const uint32_t second[4] = {static_cast<uint32_t>(low.z), static_cast<uint32_t>(high.z),
                              static_cast<uint32_t>(low.w), static_cast<uint32_t>(high.w)};
  Mma<T>(sums, first, static_cast<uint32_t>(x.x), static_cast<uint32_t>(x.y));
  Mma<T>(sums, second, static_cast<uint32_t>(x.z), static_cast<uint32_t>(x.w));
}

// Kernels on tensor cores, for calls that GroupedTensorCoresTake.
//
// For few rows a group: each group's weights pass through registers once for up to sixteen rows. A
// sum's order does not depend on the rows of groups: it is that of `in_parts`.
void GroupedFewRows(const GroupedParams& params, CudaStream& stream);
// For many: tiles of rows and columns in shared memory.
void GroupedManyRows(const GroupedParams& params, CudaStream& stream);
// The same by products of warpgroups: of bf16, on devices of compute capability 9.0, in an order of
// their own.
bool HasGroupedWarpgroups(const GroupedParams& params, const CudaStream& stream);
void GroupedByWarpgroups(const GroupedParams& params, CudaStream& stream);

}  // namespace sluice::ops::cuda
