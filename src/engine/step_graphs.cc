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
                           FunctionRef<StepOutput()> queue) {
  Recorded& step = Find(shape);
  RunPart(step, 0, stream, [&] { step.output = queue(); });
  return step.output;
}

void StepGraphs::RunPart(const StepShape& shape, int part, CudaStream& stream,
                         FunctionRef<void()> queue) {
  RunPart(Find(shape), part, stream, queue);
}

void StepGraphs::RunPart(Recorded& step, int part, CudaStream& stream, FunctionRef<void()> queue) {
  const auto found = step.parts.find(part);
  if (found == step.parts.end()) {
    queue();
    step.parts.emplace(part, std::nullopt);
    return;
  }
  std::optional<CudaGraph>& graph = found->second;
  if (!graph.has_value()) {
    graph = CudaGraph::Record(stream, [&] { queue(); });
    ++recorded_;
  }
  graph->Launch(stream);
}

// Makes room for a shape that is new by dropping the one not used for longest.
StepGraphs::Recorded& StepGraphs::Find(const StepShape& shape) {
  if (!steps_.contains(shape) && steps_.size() >= most_) {
    steps_.erase(std::min_element(steps_.begin(), steps_.end(), [](const auto& a, const auto& b) {
      return a.second.last_used < b.second.last_used;
    }));
  }
  Recorded& step = steps_[shape];
  step.last_used = ++clock_;
  return step;
}

}  // namespace sluice
