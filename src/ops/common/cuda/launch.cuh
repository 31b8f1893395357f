#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <source_location>
#include <type_traits>
#include <utility>

#include "device/cuda_check.h"
#include "device/cuda_stream.h"

namespace sluice::ops::cuda {

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;  // dynamic; more than 48 KB needs AllowShared first
};

// The one way in which kernels are launched: on the stream, with `params` by value; an error names
// the kernel. A grid with nothing in it is no launch.
template <class Params>
void Launch(const char* name, void (*kernel)(Params), const LaunchShape& shape, CudaStream& stream,
            const Params& params, std::source_location where = std::source_location::current()) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream.handle();
  CheckCuda(cudaLaunchKernelEx(&config, kernel, params), name, where);
  if (stream.blocking()) CheckCuda(cudaStreamSynchronize(stream.handle()), name, where);
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
