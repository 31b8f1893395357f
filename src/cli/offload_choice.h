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
// measured now. Experts that host memory has no slot for are read, some of them, to see how fast.
// Throws Error(kInvalidArgument) for a profile of another machine, with what differs.
HardwareProfile OffloadMachine(const OpenedModel& model, const RunnerOptions& options,
                               const std::string& hardware);

// A runner's options for n sequences; none where it cannot have so many.
using OptionsOfSequences = std::function<std::optional<RunnerOptions>(int sequences)>;

// How many of at most `most` sequences, each of `context` positions, to decode together
// (SolveOffload), with the slots that the engine has beside them. `host_slots` as OffloadOptions'.
OffloadPlan ChooseSequences(const ModelSpec& spec, const OffloadFlags& flags,
                            const HardwareProfile& machine, const OptionsOfSequences& options_of,
                            int host_slots, int context, int most);

// For a server whose experts do not fit: refuses a profile of another machine, and sets
// max_num_seqs to what the solver takes unless it is `given`, and logs why.
void FitToMachine(const OpenedModel& model, const ModelFlags& flags, const std::string& hardware,
                  bool given, EngineFlags& engine);

// The footprint of the model as a runner of these options holds it.
ModelFootprint FootprintOf(const ModelSpec& spec, const RunnerOptions& options);

}  // namespace sluice
