#include "ops/common/copy_few_bytes.h"

#include <cstdint>

#include "base/check.h"
#include "ops/common/cuda/launch.cuh"
#include "ops/common/cuda/math.cuh"

namespace sluice::ops::cuda {
namespace {

// Beyond this the engine is the faster one.
constexpr size_t kFewBytes = 16 << 10;
constexpr int kThreads = 256;

struct CopyWordsParams {
  uint32_t* target;
  const uint32_t* source;
  int words;
};

__global__ void CopyWordsKernel(const CopyWordsParams p) {
  LetNextStart();
  WaitForEarlier();
  const int i = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  // A host's word may have been read into the cache for a copy before this one.
  if (i < p.words) p.target[i] = __ldcv(p.source + i);
}

struct ScatterRowsParams {
  uint32_t* target;
  const uint32_t* source;
  const int32_t* target_rows;
  int row_words;
};

constexpr int kWordsOfThread = 8;  // under way at once
constexpr int kWordsOfBlock = kThreads * kWordsOfThread;

// One block a piece of a row: grid (rows, pieces).
__global__ void ScatterRowsKernel(const ScatterRowsParams p) {
  LetNextStart();
  WaitForEarlier();
  const int64_t from = int64_t{blockIdx.x} * p.row_words;
  const int64_t to = int64_t{__ldcv(p.target_rows + blockIdx.x)} * p.row_words;
  const int first = static_cast<int>(blockIdx.y * kWordsOfBlock + threadIdx.x);
  uint32_t words[kWordsOfThread];
#pragma unroll
  for (int i = 0; i < kWordsOfThread; ++i) {
    const int at = first + i * kThreads;
    if (at < p.row_words) words[i] = __ldcv(p.source + from + at);
  }
#pragma unroll
  for (int i = 0; i < kWordsOfThread; ++i) {
    const int at = first + i * kThreads;
    if (at < p.row_words) p.target[to + at] = words[i];
  }
}

bool IsWords(const void* address) {
  return IsMultipleOf(address, sizeof(uint32_t));
}

}  // namespace

void CopyFewBytes(void* target, const void* source, size_t bytes, CudaStream& stream) {
  const bool is_words = bytes % sizeof(uint32_t) == 0 && IsWords(target) && IsWords(source);
  if (bytes > kFewBytes || !is_words) {
    stream.Copy(target, source, bytes);
    return;
  }
  const int words = static_cast<int>(bytes / sizeof(uint32_t));
  LaunchEarly<&CopyWordsKernel>(
      "copy_few_bytes",
      {.grid = static_cast<unsigned>(CeilDiv(words, kThreads)), .block = kThreads}, stream,
      CopyWordsParams{.target = static_cast<uint32_t*>(target),
                      .source = static_cast<const uint32_t*>(source),
                      .words = words});
}

void ScatterRows(void* target, const void* source, const int32_t* target_rows, int64_t rows,
                 size_t row_bytes, CudaStream& stream) {
  SLUICE_CHECK(row_bytes % sizeof(uint32_t) == 0 && IsWords(target) && IsWords(source));
  const int words = static_cast<int>(row_bytes / sizeof(uint32_t));
  LaunchEarly<&ScatterRowsKernel>(
      "scatter_rows",
      {.grid = dim3(static_cast<unsigned>(rows), CeilDiv(words, kWordsOfBlock)), .block = kThreads},
      stream,
      ScatterRowsParams{.target = static_cast<uint32_t*>(target),
                        .source = static_cast<const uint32_t*>(source),
                        .target_rows = target_rows,
                        .row_words = words});
}

}  // namespace sluice::ops::cuda
