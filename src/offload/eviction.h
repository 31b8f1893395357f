#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "offload/eviction_policy.h"

namespace sluice {

// "lru", "lfu", "correlation"; ParseEvictionPolicy reads the same names.
const char* EvictionPolicyName(EvictionPolicy policy);
std::optional<EvictionPolicy> ParseEvictionPolicy(std::string_view name);

// The order in which experts leave, learnt from what is used. Layers are ordinals: they run one
// after another, 0 to num_layers - 1 and again. Experts are layer * num_experts + expert.
//
// The next use of an expert that its layer's next run needs with chance p is expected as many
// layers away as its layer is, and num_layers more for each run that passes it by: (1 - p) / p of
// them. p is the forecast for the next run, or the frequency: the share of the layer's runs that
// needed it, in which a run's weight halves every 22 runs.
class EvictionOrder {
 public:
  EvictionOrder(EvictionPolicy policy, int num_layers, int num_experts);

  // The layer whose turn it is.
  void BeginLayer(int layer) { current_ = layer; }
  // Tokens on each expert in the layer's run. [num_experts] Ends the forecast of it.
  void NoteRun(int layer, std::span<const int32_t> tokens);
  // Tokens expected on each expert in the layer's next run. [num_experts]
  void Expect(int layer, std::span<const double> tokens);
  // The expert was used in its slot, or came into one.
  void Touch(int32_t index) { last_use_[index] = ++clock_; }

  // Whether `a` should leave before `b`. Of experts of one layer the answer does not change as
  // layers go by, but with the calls that tell of that layer or of these experts.
  bool LeavesBefore(int32_t a, int32_t b) const;

  // Layers until the next use is expected, at least 1. The layer whose turn it is comes again after
  // num_layers: what it needs now is known.
  double LayersUntilUse(int32_t index) const;

 private:
  EvictionPolicy policy_;
  int num_layers_;
  int num_experts_;
  int current_ = 0;
  uint64_t clock_ = 0;
  std::vector<int> runs_;         // [layers] seen, up to where the average slides
  std::vector<float> frequency_;  // [experts in all]
  // [experts in all] runs of its layer that are expected to pass it by: (1 - p) / p
  std::vector<float> passes_;
  std::vector<uint64_t> last_use_;  // [experts in all]
};

}  // namespace sluice
