#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "arch/model_spec.h"
#include "engine/memory_plan.h"

namespace CLI {
class App;
}

namespace sluice {

// The flags that say how much memory experts may take, and how those that have no slot come.
struct OffloadFlags {
  int expert_slots = 0;
  std::string vram_budget;  // "12GB"; empty = no bound beside the machine's
  std::string ram_budget;
  std::string policy = "pipeline";
  std::string eviction = "correlation";
  bool prefetch = true;
  bool ready_first = true;
  bool cpu_experts = false;
  int batch_groups = 1;
  int prefill_layer_groups = 2;
  std::string link_bandwidth;  // "5GB" a second, of a CPU's simulated link
  double link_latency_us = 0.0;

  // Whether experts may lack a slot, or are to be computed as if they did.
  bool InUse() const { return expert_slots > 0 || !vram_budget.empty() || policy == "resident"; }
};

void AddOffloadFlags(CLI::App& app, OffloadFlags& flags);

// What the flags ask for but budgets' slots. Throws Error(kInvalidArgument) for flags that
// contradict each other, the model or the device.
void ApplyOffloadFlags(const ModelSpec& spec, const OffloadFlags& flags, RunnerOptions& options);

// The slots that budgets leave beside all that `options` say. Throws Error(kResourceExhausted) with
// the smallest budget that works.
void PlaceExperts(const ModelSpec& spec, const OffloadFlags& flags, RunnerOptions& options);

// Bytes of --vram-budget; none where it is not given.
std::optional<uint64_t> VramBudget(const OffloadFlags& flags);

}  // namespace sluice
