#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "device/buffer.h"
#include "device/cuda_stream.h"
#include "engine/memory_plan.h"
#include "kv/page_pool.h"
#include "moe/moe_layer.h"
#include "ops/attention/attention_batch.h"
#include "ops/common/op_context.h"

namespace sluice {

// What single ops are timed with, set up as a ModelRunner sets itself up: threads and scratch, and
// with a CUDA device a stream. One thread.
class OpBench {
 public:
  // Reads dtype, cuda, gpu_memory_utilization, num_threads and tier. Throws Error(kUnsupported)
  // where the device is not to be had.
  explicit OpBench(const RunnerOptions& options);
  OpBench(const OpBench&) = delete;
  OpBench& operator=(const OpBench&) = delete;

  const RunnerOptions& options() const { return options_; }
  ops::OpContext& context() { return context_; }
  ThreadPool& pool() { return pool_; }
  CudaStream* stream() { return stream_.get(); }  // null on the CPU
  MemoryKind memory() const;                      // what ops read: the host's or the device's

  // What the input of a product with weights of the options' dtype is held in.
  DType ProductDType() const { return context_.ProductDType(options_.dtype); }

  // A tensor that ops read, of seeded random values in [-1/8, 1/8): f32, bf16 or f16.
  Tensor Floats(DType dtype, const Shape& shape);
  // A copy of a contiguous host tensor where ops read it.
  Tensor Placed(ConstTensorView host);
  // Fills memory that ops read with such values. A few million of them repeat.
  void FillFloats(DType dtype, void* target, int64_t bytes);

  // Whether so many bytes are free where ops read, with an eighth left to others.
  bool HasRoomFor(int64_t bytes) const;

  // How many copies of data of so many bytes calls should take in turn, so that none of it is in a
  // cache when its turn comes: [1, 200].
  static int64_t Turns(int64_t bytes);
  // SampleCalls on this machine.
  std::vector<double> Sample(int64_t turns, const std::function<void(int64_t)>& call);

 private:
  const RunnerOptions options_;
  ThreadPool pool_;
  std::unique_ptr<CudaStream> stream_;
  Arena arena_;
  std::unique_ptr<ops::Inbox> inbox_;
  ops::OpContext context_;
  Tensor pattern_;  // of the dtype that was asked for last, on the host
};

// Slots of a model's experts with random weights.
class ExpertSlab {
 public:
  ExpertSlab(const ExpertLayout& layout, int64_t slots, OpBench& bench);

  ExpertMatrices matrices() const { return MatricesOf(layout_, slab_.data()); }
  // Slots [begin, end), as ops take a table of slots: [end - begin] i32.
  ConstTensorView Slots(int64_t begin, int64_t end) const {
    return slots_.view().Slice(begin, end);
  }

 private:
  ExpertLayout layout_;
  Buffer slab_;
  Tensor slots_;
};

// The last `queries` rows of each of `count` sequences that have `context` positions, placed for
// attention. The pages of sequence s are those behind its predecessor's.
class BenchSequences {
 public:
  BenchSequences(int count, int queries, int context, const AttentionSpec& attention,
                 OpBench& bench);
  BenchSequences(const BenchSequences&) = delete;
  BenchSequences& operator=(const BenchSequences&) = delete;

  int num_pages() const { return static_cast<int>(page_ids_.size()); }
  std::span<const int32_t> positions() const { return positions_; }  // [count * queries]
  std::vector<int64_t> KvSlots() const;                              // of each row, likewise
  const ops::AttentionBatch& batch() const { return batch_; }

 private:
  int queries_;
  int page_size_;
  int pages_each_;
  std::vector<int32_t> page_ids_;
  std::vector<int32_t> positions_;
  std::vector<ops::AttentionSequence> sequences_;
  ops::AttentionBatch batch_;
};

// Pages with random keys and values.
PagePool RandomPages(const KvLayout& layout, int num_pages, OpBench& bench);

}  // namespace sluice
