#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace sluice {

// The process's metrics. Made once at the top and passed by reference; rooms ask it for the
// counters they own and keep the reference, which stays valid as long as the registry. Counting is
// lock-free; server/ serialises what Collect() gives at /metrics.
class Metrics {
 public:
  using Labels = std::map<std::string, std::string>;

  Metrics() : registry_(std::make_shared<prometheus::Registry>()) {}
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  prometheus::Counter& Counter(const std::string& name, const std::string& help,
                               const Labels& labels = {});
  prometheus::Gauge& Gauge(const std::string& name, const std::string& help,
                           const Labels& labels = {});
  // `buckets` are upper bounds, ascending; +Inf is added.
  prometheus::Histogram& Histogram(const std::string& name, const std::string& help,
                                   const std::vector<double>& buckets, const Labels& labels = {});

  // Adds families that are counted elsewhere, which `families` makes whenever they are asked for,
  // on any thread. To be called before anyone collects.
  void Add(std::shared_ptr<const prometheus::Collectable> families);

  std::vector<prometheus::MetricFamily> Collect() const;

 private:
  std::shared_ptr<prometheus::Registry> registry_;
  std::vector<std::shared_ptr<const prometheus::Collectable>> added_;
};

}  // namespace sluice
