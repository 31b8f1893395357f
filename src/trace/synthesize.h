#pragma once

#include <filesystem>
#include <vector>

#include "trace/router_trace.h"
#include "trace/routing_source.h"

namespace sluice {

// The run that a synthetic trace pretends to be: sequences side by side, one token each a step.
struct SyntheticRun {
  int num_layers = 0;  // all of them route
  int num_experts = 0;
  int top_k = 0;
  int sequences = 1;
  int steps = 1;  // step s is of position s
};

// Such a run as it would be recorded.
class SyntheticBatches : public BatchSource {
 public:
  // Throws Error(kInvalidArgument) for counts that a trace cannot hold.
  SyntheticBatches(const SyntheticDesc& desc, const SyntheticRun& run);

  const RouterTraceHeader& header() const override { return header_; }
  bool NextBatch(RouterBatch& batch) override;

 private:
  SyntheticRun run_;
  RouterTraceHeader header_;
  SyntheticRouting routing_;
  int step_ = 0;  // of the next batch
  int layer_ = 0;
  std::vector<RoutingKey> tokens_;  // [sequences]
  std::vector<int32_t> ids_;        // [sequences, top_k]
};

// Writes the run to a trace, which appears whole or not at all. Throws what SyntheticBatches and
// RouterTraceWriter throw.
void SynthesizeTrace(const SyntheticDesc& desc, const SyntheticRun& run,
                     const std::filesystem::path& path);

}  // namespace sluice
