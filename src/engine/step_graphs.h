#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>

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

// The steps of a runner that were recorded as graphs. A shape runs as it is the first time, which
// makes the arena as large as it has to be, is recorded the second time, and replayed from then on.
class StepGraphs {
 public:
  // `queue` queues the step's kernels on `stream`, with all memory from arenas that begin at the
  // same place each time.
  StepOutput Run(const StepShape& shape, CudaStream& stream,
                 const std::function<StepOutput()>& queue);

  // Steps recorded so far.
  int64_t recorded() const { return recorded_; }

 private:
  // Graphs kept: each takes some megabytes of host and device memory.
  static constexpr size_t kMost = 128;

  struct Recorded {
    std::optional<CudaGraph> graph;  // none until the second time
    StepOutput output;
    uint64_t last_used = 0;
  };

  void MakeRoom();

  std::map<StepShape, Recorded> steps_;
  uint64_t clock_ = 0;
  int64_t recorded_ = 0;
};

}  // namespace sluice
