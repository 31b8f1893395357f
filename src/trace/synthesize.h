#pragma once

#include <filesystem>

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

// Writes the experts that `desc` draws in that run to a trace, which appears whole or not at all.
// Throws what RouterTraceWriter throws.
void SynthesizeTrace(const SyntheticDesc& desc, const SyntheticRun& run,
                     const std::filesystem::path& path);

}  // namespace sluice
