#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/shared_counts.h"
#include "trace/router_observer.h"

namespace sluice {

// How a server's /metrics names what ExpertLoad counts: `steps`, and `tokens` and `uses` with
// labels layer and expert.
inline constexpr char kExpertStepsMetric[] = "sluice:expert_steps_total";
inline constexpr char kExpertTokensMetric[] = "sluice:expert_tokens_total";
inline constexpr char kExpertUsesMetric[] = "sluice:expert_uses_total";

// Counts the tokens of each expert of each layer as a runner works, and the steps in which it had
// any. The counts may be another process's (SharedCounts). One thread of one process observes; any
// may read meanwhile.
class ExpertLoad : public RouterObserver {
 public:
  // Makes the memory, zero. Throws Error(kResourceExhausted) where there is none.
  ExpertLoad(int num_layers, int num_experts);
  // Maps `memory`, the descriptor() of another process's, as a child inherits it.
  ExpertLoad(int num_layers, int num_experts, int memory);

  void Observe(uint64_t step, int layer, std::span<const RoutingKey> tokens,
               ConstTensorView weights, ConstTensorView ids) override;

  int num_layers() const { return num_layers_; }
  int num_experts() const { return num_experts_; }
  int descriptor() const { return counts_.descriptor(); }  // stays open on exec

  uint64_t steps() const { return Read(0); }  // begun
  // Of an expert: choices that fell on it, and steps with at least one.
  uint64_t tokens(int layer, int expert) const { return Read(Place(layer, expert)); }
  uint64_t uses(int layer, int expert) const { return Read(Place(layer, expert) + 1); }

 private:
  size_t NumCounts() const;
  size_t Place(int layer, int expert) const;
  uint64_t Read(size_t place) const { return counts_.Read(place); }

  int num_layers_;
  int num_experts_;
  SharedCounts counts_;             // steps, then for each layer and expert its tokens and its uses
  bool any_step_ = false;           // seen by this writer
  uint64_t step_ = 0;               // the last
  std::vector<uint64_t> of_batch_;  // [experts], scratch
};

}  // namespace sluice
