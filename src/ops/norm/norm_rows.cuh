#pragma once

#include <cstdint>

#include "ops/common/cuda/math.cuh"
#include "ops/norm/norm.h"

// The norms as the first part of a kernel that goes on with what they make.
namespace sluice::ops::cuda {

// A few rows that every block norms for itself. Rows and the weight start at multiples of 16 bytes.
struct NormRowsParams {
  NormKind kind;
  const float* x;  // [rows, width]
  int64_t x_stride;
  const float* weight;  // [width]
  float eps;
  int rows;
  int width;  // a multiple of 4
};

// What a thread has of a row, in registers: packs of four elements that lie a row's threads apart.
class PackShare {
 public:
  static constexpr int kPacks = 4;

  // Starts to read those of `row` [4 packs], from pack `first` on and `step` apart.
  __device__ __forceinline__ PackShare(const float* row, int first, int step, int packs) {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      const int at = first + i * step;
      packs_[i] = at < packs ? reinterpret_cast<const float4*>(row)[at] : float4{};
    }
  }
  __device__ __forceinline__ const float4& operator[](int i) const { return packs_[i]; }

 private:
  float4 packs_[kPacks];
};

// Norms rows into shared memory, in a block of whole warps with blockDim.x = kWarp. The warps are
// dealt out to the rows, for which NormRowsFit asks.
class RowNorm {
 public:
  // Starts to read the weight, which waits for no earlier kernel.
  __device__ __forceinline__ explicit RowNorm(const NormRowsParams& params)
      : p_(params),
        warps_(static_cast<int>(blockDim.y) / params.rows),
        step_(warps_ * kWarp),
        first_(static_cast<int>(threadIdx.y) % warps_ * kWarp + static_cast<int>(threadIdx.x)),
        weight_(params.weight, first_, step_, params.width / 4) {}

  // `out` has the rows `out_stride` elements apart, a multiple of 4. All threads of the block call
  // it and see all of `out` when it returns; `scratch` holds two floats a warp.
  template <class T>
  __device__ __forceinline__ void Run(T* out, int out_stride, float* scratch) const {
    const int row = static_cast<int>(threadIdx.y) / warps_;
    // Warps that are left over go along with nothing to do.
    const int packs = row < p_.rows ? p_.width / 4 : 0;
    const PackShare x(p_.x + row * p_.x_stride, first_, step_, packs);
    const auto count = static_cast<float>(p_.width);
    float mean = 0.0f;
    if (p_.kind == NormKind::kLayer) {
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < PackShare::kPacks; ++i) sum += x[i].x + x[i].y + (x[i].z + x[i].w);
      mean = RowSum(sum, scratch + blockDim.y) / count;
    }
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < PackShare::kPacks; ++i) {
      if (first_ + i * step_ < packs) squares += SumSquares(x[i], mean);
    }
    const float scale = rsqrtf(RowSum(squares, scratch) / count + p_.eps);
#pragma unroll
    for (int i = 0; i < PackShare::kPacks; ++i) {
      const int at = first_ + i * step_;
      if (at >= packs) continue;
      const float4 w = weight_[i];
      const Pack<T, 4> pack{
          FromFloat<T>((x[i].x - mean) * scale * w.x), FromFloat<T>((x[i].y - mean) * scale * w.y),
          FromFloat<T>((x[i].z - mean) * scale * w.z), FromFloat<T>((x[i].w - mean) * scale * w.w)};
      reinterpret_cast<Pack<T, 4>*>(out + row * out_stride)[at] = pack;
    }
    __syncthreads();
  }

 private:
  static __device__ __forceinline__ float SumSquares(const float4& v, float mean) {
    const float4 d = make_float4(v.x - mean, v.y - mean, v.z - mean, v.w - mean);
    return d.x * d.x + d.y * d.y + (d.z * d.z + d.w * d.w);
  }

  // The sum over a row's warps, in each of their threads, in the warps' order.
  __device__ __forceinline__ float RowSum(float x, float* scratch) const {
    x = WarpSum(x);
    if (threadIdx.x == 0) scratch[threadIdx.y] = x;
    __syncthreads();
    const int first = static_cast<int>(threadIdx.y) / warps_ * warps_;
    const int end = min(first + warps_, static_cast<int>(blockDim.y));
    x = 0.0f;
    for (int w = first; w < end; ++w) x += scratch[w];
    return x;
  }

  const NormRowsParams& p_;
  int warps_;  // of a row
  int step_;   // a row's threads
  int first_;  // this thread's place among them
  PackShare weight_;
};

// Whether a block of so many warps can hold the rows.
inline bool NormRowsFit(int64_t rows, int64_t width, int64_t warps) {
  return rows <= warps && width <= warps / rows * kWarp * PackShare::kPacks * 4;
}

}  // namespace sluice::ops::cuda
