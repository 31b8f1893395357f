#pragma once

#include <cstddef>

#include "device/cuda_stream.h"

namespace sluice::ops::cuda {

// As stream.Copy, between memory of the device and of the host that is pinned. Few bytes are copied
// by a kernel: it begins as soon as the one before it is done, where a copy engine takes
// microseconds to be told, and may be in the middle of a long copy for another stream.
void CopyFewBytes(void* target, const void* source, size_t bytes, CudaStream& stream);

}  // namespace sluice::ops::cuda
