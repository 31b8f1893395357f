#include "offload/eviction.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace sluice {
namespace {

struct PolicyName {
  EvictionPolicy policy;
  const char* name;
};
constexpr PolicyName kPolicyNames[] = {{EvictionPolicy::kLru, "lru"},
                                       {EvictionPolicy::kLfu, "lfu"},
                                       {EvictionPolicy::kExpected, "correlation"}};

// Runs that a frequency remembers: until so many were seen all count alike.
constexpr int kRemembered = 32;
// Bounds the distance of what was never used, so that its layer still tells.
constexpr double kLeastChance = 1e-3;

float PassesOf(double chance) {
  return static_cast<float>(1.0 / std::max(chance, kLeastChance) - 1.0);
}

}  // namespace

const char* EvictionPolicyName(EvictionPolicy policy) {
  return std::find_if(std::begin(kPolicyNames), std::end(kPolicyNames),
                      [&](const PolicyName& known) { return known.policy == policy; })
      ->name;
}

std::optional<EvictionPolicy> ParseEvictionPolicy(std::string_view name) {
  for (const PolicyName& known : kPolicyNames) {
    if (known.name == name) return known.policy;
  }
  return std::nullopt;
}

EvictionOrder::EvictionOrder(EvictionPolicy policy, int num_layers, int num_experts)
    : policy_(policy),
      num_layers_(num_layers),
      num_experts_(num_experts),
      runs_(num_layers),
      frequency_(static_cast<size_t>(num_layers) * num_experts),
      passes_(frequency_.size(), PassesOf(0.0)),
      last_use_(frequency_.size()) {}

void EvictionOrder::NoteRun(int layer, std::span<const int32_t> tokens) {
  SLUICE_CHECK_EQ(static_cast<int>(tokens.size()), num_experts_);
  runs_[layer] = std::min(runs_[layer] + 1, kRemembered);
  const float weight = 1.0f / static_cast<float>(runs_[layer]);
  size_t index = static_cast<size_t>(layer) * num_experts_;
  for (const int32_t count : tokens) {
    frequency_[index] += weight * ((count > 0 ? 1.0f : 0.0f) - frequency_[index]);
    passes_[index] = PassesOf(frequency_[index]);
    ++index;
  }
}

void EvictionOrder::Expect(int layer, std::span<const double> tokens) {
  SLUICE_CHECK_EQ(static_cast<int>(tokens.size()), num_experts_);
  size_t index = static_cast<size_t>(layer) * num_experts_;
  for (const double count : tokens) {
    // The chance of one or more where so many are expected and come independently (Poisson).
    passes_[index++] = PassesOf(-std::expm1(-count));
  }
}

bool EvictionOrder::LeavesBefore(int32_t a, int32_t b) const {
  if (policy_ == EvictionPolicy::kExpected) {
    const double distance_a = LayersUntilUse(a);
    const double distance_b = LayersUntilUse(b);
    if (distance_a != distance_b) return distance_a > distance_b;
  } else if (policy_ == EvictionPolicy::kLfu && frequency_[a] != frequency_[b]) {
    return frequency_[a] < frequency_[b];
  }
  return last_use_[a] < last_use_[b];
}

double EvictionOrder::LayersUntilUse(int32_t index) const {
  const int ahead = index / num_experts_ - current_;
  return (ahead > 0 ? ahead : ahead + num_layers_) +
         static_cast<double>(num_layers_) * passes_[index];
}

}  // namespace sluice
