#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstddef>
#include <source_location>
#include <span>
#include <string>

#include "base/error.h"
#include "device/cuda_check.h"
#include "device/cuda_stream.h"

namespace sluice::ops::cuda {

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;  // dynamic; more than 48 KB needs AllowShared first
  // Of LaunchEarly: blocks behind each other in grid.z that run together and read each other's
  // shared memory (cluster.cuh); from compute capability 9.0 on, at most kMostInCluster.
  unsigned cluster = 1;
};

inline constexpr unsigned kMostInCluster = 8;

// Throws Error(kInternal) where a block asks for more shared memory than the stream's device gives.
template <class Params>
void CheckSharedMemory(const char* name, void (*kernel)(Params), const LaunchShape& shape,
                       const CudaStream& stream) {
  cudaFuncAttributes attributes{};
  CheckCuda(cudaFuncGetAttributes(&attributes, kernel), name);
  const size_t bytes = attributes.sharedSizeBytes + shape.shared_bytes;
  const auto most = static_cast<size_t>(stream.device().shared_bytes_per_block);
  if (bytes <= most) return;
  throw Error(ErrorCode::kInternal, std::string(name) + " asks for " + std::to_string(bytes) +
                                        " bytes of shared memory, a block has " +
                                        std::to_string(most));
}

// What every launch below comes to.
template <class Params>
void LaunchWith(std::span<cudaLaunchAttribute> attributes, const char* name, void (*kernel)(Params),
                const LaunchShape& shape, CudaStream& stream, const Params& params,
                std::source_location where) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  // The stream may stand for a smaller device than there is.
  if (stream.blocking()) CheckSharedMemory(name, kernel, shape, stream);
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream.handle();
  config.attrs = attributes.data();
  config.numAttrs = static_cast<unsigned>(attributes.size());
  CheckCuda(cudaLaunchKernelEx(&config, kernel, params), name, where);
  if (stream.blocking()) CheckCuda(cudaStreamSynchronize(stream.handle()), name, where);
}

// Launches a kernel on the stream, with `params` by value; an error names the kernel. A grid with
// nothing in it is no launch.
template <class Params>
void Launch(const char* name, void (*kernel)(Params), const LaunchShape& shape, CudaStream& stream,
            const Params& params, std::source_location where = std::source_location::current()) {
  LaunchWith({}, name, kernel, shape, stream, params, where);
}

// Of a kernel that LaunchEarly starts: waits until everything queued before it is done and can be
// seen. Every thread calls it before it reads what an earlier kernel may have written, or writes
// what one may still read; weights need no waiting for.
__device__ __forceinline__ void WaitForEarlier() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Of any kernel: lets the next one start, if LaunchEarly queued it, once every block has called
// this or ended. What is best called first of all.
__device__ __forceinline__ void LetNextStart() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Whether `kernel` was compiled for an architecture on which WaitForEarlier waits, and clusters
// run.
template <auto kKernel>
bool CanStartEarly(const char* name) {
  static const bool can = [name] {
    cudaFuncAttributes attributes{};
    CheckCuda(cudaFuncGetAttributes(&attributes, kKernel), name);
    return attributes.ptxVersion >= 90;
  }();
  return can;
}

// As Launch, for a kernel that calls WaitForEarlier: where the device can (compute capability 9.0
// on), its blocks start while the kernel queued before it still runs, and do what needs nothing of
// it.
template <auto kKernel, class Params>
void LaunchEarly(const char* name, const LaunchShape& shape, CudaStream& stream,
                 const Params& params,
                 std::source_location where = std::source_location::current()) {
  std::array<cudaLaunchAttribute, 2> attributes{};
  size_t count = 0;
  if (CanStartEarly<kKernel>(name) && !stream.TakeHold()) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count++].val.clusterDim = {.x = 1, .y = 1, .z = shape.cluster};
  }
  LaunchWith(std::span(attributes).first(count), name, kKernel, shape, stream, params, where);
}

// Lets `kernel` be launched with up to `bytes` of dynamic shared memory. To be called once a kernel
// and device, before the first launch that needs it; cheap to repeat.
template <class Params>
void AllowShared(const char* name, void (*kernel)(Params), size_t bytes) {
  CheckCuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(bytes)),
            name);
}

}  // namespace sluice::ops::cuda
