#pragma once

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include <memory>
#include <string>
#include <vector>

#include "trace/expert_load.h"

namespace sluice {

// The counts of experts as families of /metrics: one of steps, and two with a line for each expert
// of each of `layers`, those that route.
class ExpertLoadMetrics : public prometheus::Collectable {
 public:
  ExpertLoadMetrics(std::shared_ptr<const ExpertLoad> load, std::vector<int> layers,
                    std::string model_name);

  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  prometheus::MetricFamily Family(const char* name, const char* help) const;

  const std::shared_ptr<const ExpertLoad> load_;
  const std::vector<int> layers_;
  const std::string model_name_;
};

}  // namespace sluice
