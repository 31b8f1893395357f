#pragma once

#include <cstdint>

// Blocks that run together (LaunchShape::cluster) and read each other's shared memory: from compute
// capability 9.0 on.
namespace sluice::ops::cuda {

// Waits until every thread of the cluster has come here; what they wrote to shared memory before is
// then to be seen by all. No block may end while others read its memory.
__device__ __forceinline__ void ClusterBarrier() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;\n" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;\n" ::: "memory");
#endif
}

// Reads a number at the address that `shared` is in the n-th block of the cluster.
__device__ __forceinline__ float LoadFromBlock(uint32_t shared, uint32_t n) {
  float value = 0.0f;
#if __CUDA_ARCH__ >= 900
  uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;\n" : "=r"(there) : "r"(shared), "r"(n));
  asm volatile("ld.shared::cluster.f32 %0, [%1];\n" : "=f"(value) : "r"(there) : "memory");
#endif
  return value;
}

}  // namespace sluice::ops::cuda
