#pragma once

#include <cstddef>
#include <cstdint>

#include "device/cuda_stream.h"

namespace sluice::ops::cuda {

// As stream.Copy, between memory of the device and of the host that is pinned. Few bytes are copied
// by a kernel: it begins as soon as the one before it is done, where a copy engine takes
// microseconds to be told, and may be in the middle of a long copy for another stream.
void CopyFewBytes(void* target, const void* source, size_t bytes, CudaStream& stream);

// Copies row i of `source` to row target_rows[i] of `target`, `rows` rows of `row_bytes`, whole
// words: from the host's memory that is pinned, the numbers too, to the device's. One kernel, of
// however many bytes: it does not stand behind what a copy engine is given for another stream.
void ScatterRows(void* target, const void* source, const int32_t* target_rows, int64_t rows,
                 size_t row_bytes, CudaStream& stream);

}  // namespace sluice::ops::cuda
