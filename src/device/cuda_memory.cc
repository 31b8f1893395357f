#include "device/cuda_memory.h"

#include <cuda_runtime_api.h>
#include <spdlog/spdlog.h>
#include <sys/mman.h>

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/machine.h"
#include "device/cuda_check.h"

namespace sluice {

namespace {

// From here on pinned memory is taken by many threads at once: cudaHostAlloc takes it page by page,
// on one.
constexpr size_t kManyPinned = 256u << 20;
constexpr size_t kHugePage = 2u << 20;

[[noreturn]] void FailPinned(size_t bytes) {
  static_cast<void>(cudaGetLastError());
  throw Error(ErrorCode::kResourceExhausted,
              "could not pin " + FormatBytes(bytes) + " of host memory, " +
                  FormatBytes(QueryMemory().available_bytes) + " available");
}

size_t RoundUpToHugePage(size_t bytes) {
  return (bytes + kHugePage - 1) / kHugePage * kHugePage;
}

// Writes to each page, so that the system gives it.
void TouchPages(std::byte* data, size_t bytes) {
  constexpr size_t kPage = 4096;
  const size_t threads = std::min<size_t>(AvailableCores(), 16);
  const size_t share = RoundUpToHugePage((bytes + threads - 1) / threads);
  std::vector<std::jthread> touching;
  for (size_t begin = 0; begin < bytes; begin += share) {
    touching.emplace_back([=] {
      const size_t end = std::min(begin + share, bytes);
      for (size_t at = begin; at < end; at += kPage) data[at] = std::byte{0};
    });
  }
}

// Registered as a whole: a copy that lies in two registered ranges fails.
std::byte* MapPinned(size_t bytes) {
  const size_t size = RoundUpToHugePage(bytes);
  void* const map = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) FailPinned(bytes);
  madvise(map, size, MADV_HUGEPAGE);
  auto* const data = static_cast<std::byte*>(map);
  try {
    TouchPages(data, size);
    if (cudaHostRegister(data, size, cudaHostRegisterDefault) != cudaSuccess) FailPinned(bytes);
  } catch (...) {
    munmap(map, size);
    throw;
  }
  return data;
}

cudaError_t UnmapPinned(std::byte* data, size_t bytes) {
  const cudaError_t status = cudaHostUnregister(data);
  munmap(data, RoundUpToHugePage(bytes));
  return status;
}

cudaError_t Free(std::byte* data, size_t bytes, MemoryKind kind) {
  if (kind == MemoryKind::kCuda) return cudaFree(data);
  return bytes < kManyPinned ? cudaFreeHost(data) : UnmapPinned(data, bytes);
}

}  // namespace

std::byte* AllocateCudaMemory(size_t bytes, MemoryKind kind) {
  void* data = nullptr;
  if (kind == MemoryKind::kPinned) {
    if (bytes >= kManyPinned) return MapPinned(bytes);
    if (cudaHostAlloc(&data, bytes, cudaHostAllocDefault) != cudaSuccess) FailPinned(bytes);
    return static_cast<std::byte*>(data);
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

void FreeCudaMemory(std::byte* data, size_t bytes, MemoryKind kind) noexcept {
  const cudaError_t status = Free(data, bytes, kind);
  if (status != cudaSuccess) spdlog::warn("freeing GPU memory: {}", cudaGetErrorString(status));
}

}  // namespace sluice
