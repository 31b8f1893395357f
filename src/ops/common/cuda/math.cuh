#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "device/dtype.h"

// What kernels share: formats, wide loads, sums over a warp and a block.
namespace sluice::ops::cuda {

inline constexpr int kWarp = 32;

template <class A, class B>
__host__ __device__ constexpr auto CeilDiv(A a, B b) {
  return (a + b - 1) / b;
}

// Whether wide loads and stores may begin there.
inline bool IsMultipleOf(const void* pointer, uintptr_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

__device__ __forceinline__ float ToFloat(float x) {
  return x;
}
__device__ __forceinline__ float ToFloat(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
__device__ __forceinline__ float ToFloat(__half x) {
  return __half2float(x);
}

template <class T>
__device__ __forceinline__ T FromFloat(float x);
template <>
__device__ __forceinline__ float FromFloat<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __nv_bfloat16 FromFloat<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ __forceinline__ __half FromFloat<__half>(float x) {
  return __float2half_rn(x);
}

// Writes element `index` of f32, bf16 or f16 data.
__device__ __forceinline__ void StoreFloat(void* data, DType dtype, int64_t index, float x) {
  switch (dtype) {
    case DType::kBF16:
      static_cast<__nv_bfloat16*>(data)[index] = FromFloat<__nv_bfloat16>(x);
      break;
    case DType::kF16:
      static_cast<__half*>(data)[index] = FromFloat<__half>(x);
      break;
    default:
      static_cast<float*>(data)[index] = x;
  }
}

__device__ __forceinline__ float Silu(float x) {
  return x / (1.0f + expf(-x));
}

// N elements that are read and written in one access, at an address that is a multiple of their
// size.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T values[N];
};

// How many elements of T a 16-byte access holds.
template <class T>
inline constexpr int kPackSize = 16 / static_cast<int>(sizeof(T));

// Reads weights that nobody reads again soon: past the first cache, first to go from the second.
template <class T, int N>
__device__ __forceinline__ Pack<T, N> LoadStreaming(const T* from) {
  static_assert(sizeof(T) * N == 16);
  const int4 bits = __ldcs(reinterpret_cast<const int4*>(from));
  Pack<T, N> pack;
  *reinterpret_cast<int4*>(pack.values) = bits;
  return pack;
}

// Adds to a counter in global memory and gives what it was. What the block wrote before its last
// barrier can be seen by whoever finds this addition in the counter, and passes a barrier.
__device__ __forceinline__ int32_t AddReleasing(int32_t* counter, int32_t value) {
  int32_t before;
  asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], %2;"
               : "=r"(before)
               : "l"(__cvta_generic_to_global(counter)), "r"(value)
               : "memory");
  return before;
}

// 2 to the power of x, within 2 units of the last place; what would be denormal is 0.
__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// The sum over the warp's lanes, in every lane; the order does not depend on the values.
__device__ __forceinline__ float WarpSum(float x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    x += __shfl_xor_sync(0xffffffffu, x, offset);
  }
  return x;
}

__device__ __forceinline__ float WarpMax(float x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  }
  return x;
}

// The sum over the block's threads, in every thread. `scratch` holds one float a warp. All threads
// call it; the block may use `scratch` again after its next barrier.
__device__ __forceinline__ float BlockSum(float x, float* scratch) {
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int warps = CeilDiv(blockDim.x, kWarp);
  x = WarpSum(x);
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  x = lane < warps ? scratch[lane] : 0.0f;
  return WarpSum(x);
}

// Calls `function` with a null pointer of the CUDA type that `dtype` names, so that it can be a
// generic lambda: f32, bf16, f16. Returns false for any other.
template <class Function>
bool WithFloatType(DType dtype, Function function) {
  switch (dtype) {
    case DType::kF32:
      function(static_cast<float*>(nullptr));
      return true;
    case DType::kBF16:
      function(static_cast<__nv_bfloat16*>(nullptr));
      return true;
    case DType::kF16:
      function(static_cast<__half*>(nullptr));
      return true;
    default:
      return false;
  }
}

}  // namespace sluice::ops::cuda
