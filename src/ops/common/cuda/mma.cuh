#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "ops/common/cuda/math.cuh"

// The portable tensor-core instructions (sm_80 on): copies into shared memory that run beside
// arithmetic, loads of 8 x 8 tiles from it, and the product of 16 x 16 by 16 x 8 tiles of bf16 or
// f16 with f32 sums. Layouts are those of the PTX manual, "Matrix fragments for mma.m16n8k16":
// with group = lane / 4 and pair = lane % 4, a lane holds
//   a[0] A(group, 2 pair ..+1)      a[1] A(group + 8, same)  a[2], a[3] the same at column + 8
//   b[0] B(2 pair ..+1, group)      b[1] B(same + 8, group)
//   c[0], c[1] C(group, 2 pair ..+1)  c[2], c[3] C(group + 8, same)
namespace sluice::ops::cuda {

// An address in shared memory as the instructions take it, in bytes. Kernels that do arithmetic on
// addresses keep them so.
__device__ __forceinline__ uint32_t SharedAddress(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// Starts a copy of 16 bytes, both addresses multiples of 16, past the first cache. Where `valid`
// is false, zeros are written and `global` is not read (it must still be a pointer to somewhere).
__device__ __forceinline__ void CopyAsync16(uint32_t shared, const void* global,
                                            bool valid = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void CopyAsync16(void* shared, const void* global, bool valid = true) {
  CopyAsync16(SharedAddress(shared), global, valid);
}

// The same of what is read once, from begin to end: the second-level cache asks memory for the 256
// bytes around, of which others want the rest in a moment.
__device__ __forceinline__ void CopyAsync16Streaming(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;\n" ::"r"(
                   SharedAddress(shared)),
               "l"(global), "r"(valid ? 16 : 0)
               : "memory");
}

// Closes a group of this thread's copies.
__device__ __forceinline__ void CopyAsyncCommit() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}

// Waits until all of this thread's groups but the last `kPending` have arrived; what other threads
// copied is there after the next barrier.
template <int kPending>
__device__ __forceinline__ void CopyAsyncWait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

// Four 8 x 8 tiles of 16-bit elements. Lane l gives the address of row l % 8 of tile l / 8, 16
// bytes; every lane gets elements 2 (lane % 4) ..+1 of row lane / 4 of each tile.
__device__ __forceinline__ void LoadTiles4(uint32_t (&tiles)[4], uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
               : "r"(shared)
               : "memory");
}
__device__ __forceinline__ void LoadTiles4(uint32_t (&tiles)[4], const void* shared) {
  LoadTiles4(tiles, SharedAddress(shared));
}

// The same of each tile's transpose.
__device__ __forceinline__ void LoadTiles4Transposed(uint32_t (&tiles)[4], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
               : "r"(SharedAddress(shared))
               : "memory");
}

// c += a b.
template <class T>
__device__ __forceinline__ void Mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                    uint32_t b1);

template <>
__device__ __forceinline__ void Mma<__nv_bfloat16>(float (&c)[4], const uint32_t (&a)[4],
                                                   uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void Mma<__half>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                            uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two floats rounded to T, the first in the low half, as fragments have them.
template <class T>
__device__ __forceinline__ uint32_t PackPair(float low, float high) {
  const Pack<T, 2> pair{FromFloat<T>(low), FromFloat<T>(high)};
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// Where element (row, 8 piece) stands in a tile of rows of 64 16-bit elements in shared memory, in
// elements: the eight 16-byte pieces of a row trade places so that both a row's pieces and a
// piece's eight rows lie in different banks.
__device__ __forceinline__ int SwizzledOffset(int row, int piece) {
  return row * 64 + ((piece ^ (row % 8)) * 8);
}

}  // namespace sluice::ops::cuda
