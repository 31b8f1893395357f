#pragma once

#include <atomic>
#include <cstdint>
#include <random>

#include "device/buffer.h"
#include "ops/common/op_context.h"
#include "quant/float_formats.h"

namespace sluice::ops {

// A pool over all cores, an arena and a context for the machine's tier.
class BenchRunner {
 public:
  BenchRunner() : pool_(AvailableCores()), context_{pool_, arena_, DetectCpuTier()} {}
  OpContext& context() { return context_; }

 private:
  ThreadPool pool_;
  Arena arena_;
  OpContext context_;
};

// Values that are neither zero nor denormal, in any float format.
inline Tensor BenchTensor(DType dtype, const Shape& shape) {
  Tensor values(DType::kF32, shape);
  std::minstd_rand random(1);
  for (int64_t i = 0; i < shape.NumElements(); ++i) {
    values.data<float>()[i] = static_cast<float>(random() % 2001) / 1000.0f - 1.0f;
  }
  Tensor converted(dtype, shape);
  ConvertFloats(values, converted);
  return converted;
}

// The bound of memory-bound ops: all cores sum the buffer's words. Returns the sum.
inline uint64_t ReadAll(const Buffer& buffer, ThreadPool& pool) {
  constexpr int64_t kGrainWords = 1 << 17;
  std::atomic<uint64_t> total{0};
  const auto* words = reinterpret_cast<const uint64_t*>(buffer.data());
  pool.ParallelFor(static_cast<int64_t>(buffer.size() / sizeof(uint64_t)), kGrainWords,
                   [&](int64_t begin, int64_t end, int) {
                     uint64_t sum = 0;
                     for (int64_t i = begin; i < end; ++i) sum += words[i];
                     total += sum;
                   });
  return total;
}

}  // namespace sluice::ops
