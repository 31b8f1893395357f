#pragma once

#include <cstddef>

#include "device/buffer.h"

namespace sluice {

// Whether this build has the CUDA backend. What is declared for CUDA is defined in such a build
// alone: callers ask `if constexpr (kCudaBuilt)` first.
#if defined(SLUICE_CUDA)
inline constexpr bool kCudaBuilt = true;
#else
inline constexpr bool kCudaBuilt = false;
#endif

// Memory of a kind other than kHost, on the current device. Throws Error(kResourceExhausted) with
// what was asked for and what is free.
std::byte* AllocateCudaMemory(size_t bytes, MemoryKind kind);

// Gives back what AllocateCudaMemory gave for these bytes; a failure is logged.
void FreeCudaMemory(std::byte* data, size_t bytes, MemoryKind kind) noexcept;

}  // namespace sluice
