#pragma once

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "trace/expert_load.h"

namespace sluice {

// Counts as they were when the last stretch of time began, of those that only grow.
class CountWindow {
 public:
  // So many periods are a stretch; `counts` are those of now.
  CountWindow(size_t periods, std::vector<uint64_t> counts);

  // A period is over.
  void Mark(std::vector<uint64_t> counts);

  // As they were so many periods before the last Mark, or at the beginning if that was later.
  const std::vector<uint64_t>& start() const { return marks_.front(); }

 private:
  const size_t periods_;
  std::deque<std::vector<uint64_t>> marks_;  // oldest first; never empty
};

// How unevenly the experts of each layer were chosen over the last minute, as families of /metrics:
// max / mean, Gini and the coefficient of variation. A thread of its own notes the counts every few
// seconds; the figures are made when they are asked for, and steps know of neither.
class ExpertImbalance : public prometheus::Collectable {
 public:
  // Of the layers that route. `period` is a twelfth of the window.
  ExpertImbalance(std::shared_ptr<const ExpertLoad> load, std::vector<int> layers,
                  std::string model_name, std::chrono::milliseconds period);
  ~ExpertImbalance() override;

  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  std::vector<uint64_t> Counts() const;  // [layers, experts]
  void MarkPeriods(const std::stop_token& stop, std::chrono::milliseconds period);

  const std::shared_ptr<const ExpertLoad> load_;
  const std::vector<int> layers_;
  const std::string model_name_;
  mutable std::mutex mutex_;  // guards the window
  CountWindow window_;
  std::condition_variable_any wake_;
  std::jthread thread_;
};

}  // namespace sluice
