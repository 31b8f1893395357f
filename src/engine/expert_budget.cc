#include "engine/expert_budget.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "model/model_weights.h"

namespace sluice {
namespace {

// Of host memory that is left to everybody else where nobody says how much experts may take.
constexpr uint64_t kHostMargin = uint64_t{2} << 30;

uint64_t SlotBytes(const ModelSpec& spec, const RunnerOptions& options) {
  return static_cast<uint64_t>(ExpertLayoutOf(spec, options.dtype).SlotBytes());
}

// Of the memory of what computes, with so many slots.
uint64_t Needed(const ModelSpec& spec, RunnerOptions options, int slots) {
  options.expert_slots = slots;
  options.offload.host_slots = 0;
  return EstimateMemory(spec, options).total();
}

// A size as the flags take it to the byte, and as people read it.
std::string Exactly(uint64_t bytes) {
  return std::to_string(bytes) + " (" + FormatBytes(bytes) + ")";
}

}  // namespace

int ExpertsInAll(const ModelSpec& spec, const RunnerOptions& options) {
  return spec.NumMoeLayers() * LocalExperts(spec, options);
}

uint64_t SmallestBudget(const ModelSpec& spec, const RunnerOptions& options) {
  return Needed(spec, options, std::min(kLeastExpertSlots, ExpertsInAll(spec, options)));
}

int SlotsWithin(const ModelSpec& spec, const RunnerOptions& options, uint64_t bytes) {
  const uint64_t least = SmallestBudget(spec, options);
  if (bytes < least) {
    RunnerOptions smallest = options;
    smallest.expert_slots = kLeastExpertSlots;
    smallest.offload.host_slots = 0;
    const MemoryNeeds needs = EstimateMemory(spec, smallest);
    throw Error(
        ErrorCode::kResourceExhausted,
        "--vram-budget of " + FormatBytes(bytes) +
            " does not hold one step: weights beside the experts take " +
            FormatBytes(needs.weight_bytes - needs.expert_bytes) + ", the KV cache " +
            FormatBytes(needs.kv_bytes) + ", a step's scratch " + FormatBytes(needs.scratch_bytes) +
            ", the process " + FormatBytes(needs.process_bytes) + " and " +
            std::to_string(kLeastExpertSlots) + " experts " + FormatBytes(needs.expert_bytes) +
            ". The smallest that works with these flags is --vram-budget " + Exactly(least));
  }
  // Where every expert has a slot, a step needs nothing to bring any.
  const int all = ExpertsInAll(spec, options);
  if (bytes >= Needed(spec, options, 0)) return all;
  const uint64_t more = (bytes - least) / SlotBytes(spec, options);
  return static_cast<int>(std::min<uint64_t>(all, kLeastExpertSlots + more));
}

uint64_t LeftForPages(const ModelSpec& spec, const RunnerOptions& options, uint64_t bytes) {
  RunnerOptions without = options;
  without.num_pages = 0;
  without.num_host_pages = 0;
  return bytes - std::min(bytes, SmallestBudget(spec, without));
}

int HostSlotsWithin(const ModelSpec& spec, const RunnerOptions& options,
                    std::optional<uint64_t> bytes) {
  const uint64_t slot = SlotBytes(spec, options);
  const uint64_t all = ExpertsInAll(spec, options);
  uint64_t room = bytes.value_or(0);
  if (!bytes.has_value()) {
    const MemoryNeeds needs = EstimateMemory(spec, options);
    const uint64_t taken = options.cuda.has_value() ? needs.swap_bytes : needs.total();
    const uint64_t available = QueryMemory().available_bytes;
    room = available - std::min(available, taken + std::min(kHostMargin, available / 8));
  }
  if (room < kLeastExpertSlots * slot) {
    throw Error(ErrorCode::kResourceExhausted,
                (bytes.has_value() ? "--ram-budget of " : "host memory to spare of ") +
                    FormatBytes(room) + " does not hold " + std::to_string(kLeastExpertSlots) +
                    " experts of " + FormatBytes(slot) +
                    ". The smallest that works is --ram-budget " +
                    Exactly(kLeastExpertSlots * slot));
  }
  return static_cast<int>(std::min(all, room / slot));
}

}  // namespace sluice
