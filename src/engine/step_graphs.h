#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>

#include "base/function_ref.h"
#include "device/cuda_graph.h"
#include "device/cuda_stream.h"
#include "device/tensor.h"

namespace sluice {

// What the kernels of a step are chosen and placed by. Steps of one shape queue the same kernels on
// the same addresses, whatever their tokens, sequences and experts.
struct StepShape {
  int64_t rows = 0;
  int64_t wanted = 0;       // rows whose logits are made
  int64_t table_width = 0;  // pages of a sequence in the batch's page table
  int64_t kv_length = 0;    // as attention chooses its splits by
  bool routing_given = false;
  bool routing_kept = false;

  auto operator<=>(const StepShape&) const = default;
};

// The number of rows that a decode step of `rows` is brought to, so that few shapes are recorded:
// 1, 2, 4, then multiples of 8 to 64, of 16 to 256, and of 64.
int64_t BatchBucket(int64_t rows);

// Where a step leaves its results.
struct StepOutput {
  TensorView hidden;  // [rows, hidden] f32
  TensorView logits;  // [wanted, vocab] f32
};

// The steps of a runner that were recorded as graphs, whole or those parts of them that do not wait
// for the host. What a shape queues runs as it is the first time, which makes the arena as large as
// it has to be, is recorded the second time, and replayed from then on.
class StepGraphs {
 public:
  // Keeps the graphs of so many shapes: each takes some megabytes of host and device memory.
  explicit StepGraphs(size_t most) : most_(most) {}

  // `queue` queues the step's kernels on `stream`, with all memory from arenas that begin at the
  // same place each time.
  StepOutput Run(const StepShape& shape, CudaStream& stream, FunctionRef<StepOutput()> queue);

  // The same of one part of a step, of any number: where the part's memory begins is the same each
  // time too.
  void RunPart(const StepShape& shape, int part, CudaStream& stream, FunctionRef<void()> queue);

  // Steps and parts recorded so far.
  int64_t recorded() const { return recorded_; }

 private:
  struct Recorded {
    std::map<int, std::optional<CudaGraph>> parts;  // none until the second time
    StepOutput output;
    uint64_t last_used = 0;
  };

  Recorded& Find(const StepShape& shape);
  void RunPart(Recorded& step, int part, CudaStream& stream, FunctionRef<void()> queue);

  const size_t most_;
  std::map<StepShape, Recorded> steps_;
  uint64_t clock_ = 0;
  int64_t recorded_ = 0;
};

}  // namespace sluice
