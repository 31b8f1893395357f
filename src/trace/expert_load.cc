#include "trace/expert_load.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>

#include "base/check.h"
#include "base/error.h"

namespace sluice {

ExpertLoad::ExpertLoad(int num_layers, int num_experts)
    : ExpertLoad(num_layers, num_experts, memfd_create("sluice-expert-load", 0)) {}

ExpertLoad::ExpertLoad(int num_layers, int num_experts, int memory)
    : num_layers_(num_layers),
      num_experts_(num_experts),
      descriptor_(memory),
      of_batch_(static_cast<size_t>(num_experts)) {
  Map();
}

ExpertLoad::~ExpertLoad() {
  munmap(counts_, NumCounts() * sizeof(Count));
  close(descriptor_);
}

void ExpertLoad::Map() {
  const size_t bytes = NumCounts() * sizeof(Count);
  void* mapped = MAP_FAILED;
  if (descriptor_ >= 0 && ftruncate(descriptor_, static_cast<off_t>(bytes)) == 0) {
    mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor_, 0);
  }
  if (mapped == MAP_FAILED) {
    throw Error(ErrorCode::kResourceExhausted, "cannot make memory for the counts of experts: " +
                                                   std::system_category().message(errno));
  }
  counts_ = static_cast<Count*>(mapped);
}

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
  if (!any_step_ || step != step_) Add(0, 1);
  any_step_ = true;
  step_ = step;
  std::fill(of_batch_.begin(), of_batch_.end(), 0);
  const std::span<const int32_t> chosen(ids.data<int32_t>(),
                                        static_cast<size_t>(ids.NumElements()));
  for (const int32_t expert : chosen) ++of_batch_.at(static_cast<size_t>(expert));
  for (int expert = 0; expert < num_experts_; ++expert) {
    const uint64_t count = of_batch_[static_cast<size_t>(expert)];
    if (count == 0) continue;
    Add(Place(layer, expert), count);
    Add(Place(layer, expert) + 1, 1);
  }
}

}  // namespace sluice
