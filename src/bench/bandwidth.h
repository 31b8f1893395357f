#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "base/thread_pool.h"
#include "device/cuda_stream.h"

namespace sluice {

// Bytes per second that the pool's threads read from a buffer of `bytes`, over and over: of memory
// or of whatever cache holds that many. The best of a few tries.
double MeasureReadBandwidth(ThreadPool& pool, int64_t bytes);

// Bytes per second that a CUDA device reads and writes in a large copy. The best of a few tries.
// Takes up to 2 GB of its memory meanwhile, less where less is free.
double MeasureDeviceBandwidth(CudaStream& stream);

// Bytes per second of copies of so many bytes, 64 MiB of them behind each other at least, between
// pinned host memory and a CUDA device, one direction at a time. The best of a few tries.
struct LinkBandwidth {
  double to_device = 0.0;
  double to_host = 0.0;
};
LinkBandwidth MeasureLinkBandwidth(CudaStream& stream, size_t copy_bytes = size_t{64} << 20);

// Bytes per second of large reads, past the page cache, from a file of `bytes` that is made in
// `dir` and gone when this returns. Empty where the file system cannot be read past the cache.
// Throws Error(kResourceExhausted) when the file cannot be written.
std::optional<double> MeasureDiskRead(const std::filesystem::path& dir, int64_t bytes);

}  // namespace sluice
