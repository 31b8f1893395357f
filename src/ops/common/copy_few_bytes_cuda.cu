#include "ops/common/copy_few_bytes.h"

#include <cstdint>

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

}  // namespace sluice::ops::cuda
