#pragma once

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include <functional>
#include <vector>

namespace sluice {

// What the process holds, as families of /metrics: memory, time and open files under the names that
// Prometheus' own clients give them, and what its door has to do.
class ProcessMetrics : public prometheus::Collectable {
 public:
  // `connections`: that are open; `answering`: requests whose answers are not written yet, the one
  // that asks for this among them.
  ProcessMetrics(std::function<int()> connections, std::function<int()> answering);

  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const std::function<int()> connections_;
  const std::function<int()> answering_;
  const double started_;  // Unix time
};

}  // namespace sluice
