#pragma once

#include <cstdint>
#include <optional>

#include "arch/model_spec.h"
#include "engine/memory_plan.h"

namespace sluice {

// The fewest slots that a layer's experts can go through: one is computed with while the next
// arrives.
inline constexpr int kLeastExpertSlots = 2;

// Experts that a runner of the spec holds or brings, of all layers.
int ExpertsInAll(const ModelSpec& spec, const RunnerOptions& options);

// What `bytes` of the memory of what computes leave beside all else that the options ask of it:
// `slots` of RunnerOptions::expert_slots, at least kLeastExpertSlots and at most every expert.
// Throws Error(kResourceExhausted) for fewer bytes than `SmallestBudget`, and names that.
int SlotsWithin(const ModelSpec& spec, const RunnerOptions& options, uint64_t bytes);
uint64_t SmallestBudget(const ModelSpec& spec, const RunnerOptions& options);

// What is left of `bytes` beside weights, a step's scratch and the least slots: for keys and values
// and more slots.
uint64_t LeftForPages(const ModelSpec& spec, const RunnerOptions& options, uint64_t bytes);

// OffloadOptions::host_slots in `bytes` of host memory; without them in what the host has to spare.
// Throws Error(kResourceExhausted) where that is not kLeastExpertSlots.
int HostSlotsWithin(const ModelSpec& spec, const RunnerOptions& options,
                    std::optional<uint64_t> bytes);

}  // namespace sluice
