#include "trace/expert_load.h"

#include <algorithm>

#include "base/check.h"

namespace sluice {

ExpertLoad::ExpertLoad(int num_layers, int num_experts)
    : num_layers_(num_layers),
      num_experts_(num_experts),
      counts_(NumCounts()),
      of_batch_(static_cast<size_t>(num_experts)) {}

ExpertLoad::ExpertLoad(int num_layers, int num_experts, int memory)
    : num_layers_(num_layers),
      num_experts_(num_experts),
      counts_(NumCounts(), memory),
      of_batch_(static_cast<size_t>(num_experts)) {}

size_t ExpertLoad::NumCounts() const {
  return 1 + 2 * static_cast<size_t>(num_layers_) * static_cast<size_t>(num_experts_);
}

size_t ExpertLoad::Place(int layer, int expert) const {
  SLUICE_CHECK(layer >= 0 && layer < num_layers_ && expert >= 0 && expert < num_experts_);
  return 1 + 2 * (static_cast<size_t>(layer) * static_cast<size_t>(num_experts_) +
                  static_cast<size_t>(expert));
}

void ExpertLoad::Observe(uint64_t step, int layer, std::span<const RoutingKey> tokens,
                         ConstTensorView /*weights*/, ConstTensorView ids) {
  SLUICE_CHECK_EQ(ids.dim(0), std::ssize(tokens));
  SLUICE_CHECK(ids.IsContiguous());
  if (!any_step_ || step != step_) counts_.Add(0, 1);
  any_step_ = true;
  step_ = step;
  std::fill(of_batch_.begin(), of_batch_.end(), 0);
  const std::span<const int32_t> chosen(ids.data<int32_t>(),
                                        static_cast<size_t>(ids.NumElements()));
  for (const int32_t expert : chosen) ++of_batch_.at(static_cast<size_t>(expert));
  for (int expert = 0; expert < num_experts_; ++expert) {
    const uint64_t count = of_batch_[static_cast<size_t>(expert)];
    if (count == 0) continue;
    counts_.Add(Place(layer, expert), count);
    counts_.Add(Place(layer, expert) + 1, 1);
  }
}

}  // namespace sluice
