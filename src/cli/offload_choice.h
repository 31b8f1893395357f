#pragma once

#include <functional>
#include <optional>
#include <string>

#include "cli/loaded_model.h"
#include "cli/offload_flags.h"
#include "engine/memory_plan.h"
#include "plan/hardware_profile.h"
#include "plan/offload_plan.h"

namespace sluice {

// The machine that the options run on: what `hardware`, a profile's file, says of it, else what is
// measured now, and so what its host computes where the file does not say. Experts that host memory
// has no slot for are read, some of them, to see how fast. Throws Error(kInvalidArgument) for a
// profile of another machine, with what differs.
HardwareProfile OffloadMachine(const OpenedModel& model, const RunnerOptions& options,
                               const std::string& hardware);

// A runner's options for n sequences; none where it cannot have so many.
using OptionsOfSequences = std::function<std::optional<RunnerOptions>(int sequences)>;

// What SolveOffload chooses a number of sequences on `machine` by: at most `most`, each of
// `context` positions, with the slots that the engine has beside them. `spec` outlives it. Throws
// Error(kResourceExhausted) where not one fits, with the smallest budget that works.
OffloadRequest RequestFor(const ModelSpec& spec, const OffloadFlags& flags,
                          const HardwareProfile& machine, const OptionsOfSequences& options_of,
                          int context, int most);

// What a server of experts that do not fit is fitted to.
struct FitFlags {
  std::string hardware;      // a profile's file; empty: this machine, measured now
  double max_step_ms = 0.0;  // 0 = as many tokens a second as can be
  bool seqs_given = false;   // --max-num-seqs is
};

// For a server whose experts do not fit: refuses a profile of another machine, and sets
// max_num_seqs to what the solver takes unless it is given, and logs why. With max_step_ms what is
// given is the most, and prompts go through the layers in as many steps as that takes. Throws
// Error(kResourceExhausted) with what one sequence takes where that is longer.
void FitToMachine(const OpenedModel& model, const FitFlags& fit, ModelFlags& flags,
                  EngineFlags& engine);

// The footprint of the model as a runner of these options holds it.
ModelFootprint FootprintOf(const ModelSpec& spec, const RunnerOptions& options);

}  // namespace sluice
