#pragma once

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include <memory>
#include <string>
#include <vector>

#include "offload/offload_counters.h"

namespace sluice {

// What offloading does as families of /metrics, `sluice:offload_...`: counters with a line for each
// of `layers`, those with experts; the link's; and how many experts have a slot.
class OffloadMetrics : public prometheus::Collectable {
 public:
  OffloadMetrics(std::shared_ptr<const OffloadCounters> counters, std::vector<int> layers,
                 std::string model_name);

  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const std::shared_ptr<const OffloadCounters> counters_;
  const std::vector<int> layers_;
  const std::string model_name_;
};

}  // namespace sluice
