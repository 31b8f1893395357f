#pragma once

#include <string>

#include "study/load_balance_study.h"
#include "trace/synthesize.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace sluice {

// A run whose experts are drawn from a distribution.
struct SyntheticFlags {
  std::string source;
  SyntheticRun run{.num_layers = 48, .num_experts = 128, .top_k = 8, .sequences = 8, .steps = 256};
};

// Declares --source and the run's size; returns --source.
CLI::Option* AddSyntheticFlags(CLI::App& command, SyntheticFlags& flags);

// The run that a study reads: a recorded trace, or a synthetic one.
struct RunFlags {
  std::string trace;
  SyntheticFlags synthetic;
};
void AddRunFlags(CLI::App& command, RunFlags& flags);

// Throws Error(kInvalidArgument) unless exactly one of trace and source is given.
OpenSource OpenRun(const RunFlags& flags);

}  // namespace sluice
