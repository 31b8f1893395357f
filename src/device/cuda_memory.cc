#include "device/cuda_memory.h"

#include <cuda_runtime_api.h>
#include <spdlog/spdlog.h>

#include <string>

#include "base/error.h"
#include "base/machine.h"
#include "device/cuda_check.h"

namespace sluice {

std::byte* AllocateCudaMemory(size_t bytes, MemoryKind kind) {
  void* data = nullptr;
  if (kind == MemoryKind::kPinned) {
    if (cudaHostAlloc(&data, bytes, cudaHostAllocDefault) == cudaSuccess) {
      return static_cast<std::byte*>(data);
    }
    static_cast<void>(cudaGetLastError());
    throw Error(ErrorCode::kResourceExhausted,
                "could not pin " + FormatBytes(bytes) + " of host memory, " +
                    FormatBytes(QueryMemory().available_bytes) + " available");
  }
  const cudaError_t status = cudaMalloc(&data, bytes);
  if (status == cudaSuccess) return static_cast<std::byte*>(data);
  if (status != cudaErrorMemoryAllocation) CheckCuda(status, "cudaMalloc");
  static_cast<void>(cudaGetLastError());
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  CheckCuda(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
  throw Error(ErrorCode::kResourceExhausted, "could not allocate " + FormatBytes(bytes) +
                                                 " of GPU memory, " + FormatBytes(free_bytes) +
                                                 " free of " + FormatBytes(total_bytes));
}

void FreeCudaMemory(std::byte* data, MemoryKind kind) noexcept {
  const cudaError_t status = kind == MemoryKind::kPinned ? cudaFreeHost(data) : cudaFree(data);
  if (status != cudaSuccess) spdlog::warn("freeing GPU memory: {}", cudaGetErrorString(status));
}

}  // namespace sluice
