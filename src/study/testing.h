#pragma once

#include <utility>
#include <vector>

#include "trace/router_trace.h"

namespace sluice {

// For tests: a batch of tokens 0, 1, ... at position `step`, each with its experts.
inline RouterBatch MakeBatch(uint64_t step, int layer,
                             const std::vector<std::vector<uint16_t>>& experts) {
  RouterBatch batch{.step = step, .layer = layer};
  for (size_t t = 0; t < experts.size(); ++t) {
    batch.sequences.push_back(t);
    batch.positions.push_back(static_cast<int32_t>(step));
    batch.experts.insert(batch.experts.end(), experts[t].begin(), experts[t].end());
    batch.weights.insert(batch.weights.end(), experts[t].size(),
                         1.0f / static_cast<float>(experts[t].size()));
  }
  return batch;
}

// For tests: a run that lies in memory.
class MemoryBatches : public BatchSource {
 public:
  MemoryBatches(RouterTraceHeader header, std::vector<RouterBatch> batches)
      : header_(std::move(header)), batches_(std::move(batches)) {}
  const RouterTraceHeader& header() const override { return header_; }
  bool NextBatch(RouterBatch& batch) override {
    if (next_ == batches_.size()) return false;
    batch = batches_[next_++];
    return true;
  }

 private:
  RouterTraceHeader header_;
  std::vector<RouterBatch> batches_;
  size_t next_ = 0;
};

}  // namespace sluice
