#include "engine/step_graphs.h"

#include <algorithm>

namespace sluice {

int64_t BatchBucket(int64_t rows) {
  if (rows <= 2) return rows;
  if (rows <= 4) return 4;
  const int64_t step = rows <= 64 ? 8 : rows <= 256 ? 16 : 64;
  return (rows + step - 1) / step * step;
}

StepOutput StepGraphs::Run(const StepShape& shape, CudaStream& stream,
                           const std::function<StepOutput()>& queue) {
  const auto found = steps_.find(shape);
  if (found == steps_.end()) {
    const StepOutput output = queue();
    MakeRoom();
    steps_.emplace(shape, Recorded{.graph = {}, .output = output, .last_used = ++clock_});
    return output;
  }
  Recorded& step = found->second;
  step.last_used = ++clock_;
  if (!step.graph.has_value()) {
    step.graph = CudaGraph::Record(stream, [&] { step.output = queue(); });
    ++recorded_;
  }
  step.graph->Launch(stream);
  return step.output;
}

void StepGraphs::MakeRoom() {
  if (steps_.size() < kMost) return;
  steps_.erase(std::min_element(steps_.begin(), steps_.end(), [](const auto& a, const auto& b) {
    return a.second.last_used < b.second.last_used;
  }));
}

}  // namespace sluice
