#pragma once

#include "ops/common/cuda/launch.cuh"

namespace sluice::ops::cuda {

// As Launch, for a kernel whose blocks wait for each other: all of them run at once, or the launch
// fails. Of a grid with one block in x no block waits for another, and it may be of any size.
template <class Params>
void LaunchTogether(const char* name, void (*kernel)(Params), const LaunchShape& shape,
                    CudaStream& stream, const Params& params,
                    std::source_location where = std::source_location::current()) {
  if (shape.grid.x == 1) return Launch(name, kernel, shape, stream, params, where);
  cudaLaunchAttribute together{};
  together.id = cudaLaunchAttributeCooperative;
  together.val.cooperative = 1;
  LaunchWith({&together, 1}, name, kernel, shape, stream, params, where);
}

}  // namespace sluice::ops::cuda
