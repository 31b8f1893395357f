#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <deque>
#include <vector>

#include "plan/correlation_table.h"
#include "trace/router_trace.h"

namespace sluice {

struct PrefetchOptions {
  std::vector<int> slots = {4, 8, 16, 32, 64};  // experts fetched ahead for a layer
  int look_ahead = 1;                           // routed layers between predicting and using
  CorrelationOptions table;
};

// Of the experts that layers needed, each counted once a step, those that were fetched ahead.
struct PrefetchHits {
  int slots = 0;
  double table = 0.0;      // by the table, from the experts of an earlier layer
  double frequency = 0.0;  // the layer's most frequent ones so far
  double best = 0.0;       // the most that so many slots can hit
  // Of what tokens choose, not of experts: the share that was fetched ahead by the table.
  double table_choices = 0.0;
};

// Plays prefetching on a run: predicts for each step and layer, looks what was needed, and learns
// from it only then.
class PrefetchStudy {
 public:
  PrefetchStudy(const RouterTraceHeader& header, const PrefetchOptions& options);

  // Batches in the order of the run. A layer is predicted when the layer look_ahead before it, in
  // the same step, had the same tokens in the same order.
  void Add(const RouterBatch& batch);

  std::vector<PrefetchHits> Hits() const;
  uint64_t predicted_layers() const { return predicted_; }
  size_t table_bytes() const { return table_.Bytes(); }

 private:
  void Judge(const RouterBatch& source, const RouterBatch& batch);
  // Writes the experts with most expected tokens to ranked_; of equals the lower id.
  void Rank(const std::vector<double>& expected);

  size_t experts_;
  PrefetchOptions options_;
  CorrelationTable table_;
  std::deque<RouterBatch> earlier_;  // of this step, the layer look_ahead before first
  std::vector<double> expected_;     // [experts]
  std::vector<int> ranked_;          // [experts]
  std::vector<uint32_t> needed_;     // [experts] choices of the layer at hand
  struct Sum {
    uint64_t table = 0;
    uint64_t frequency = 0;
    uint64_t best = 0;
    uint64_t table_choices = 0;
  };
  std::vector<Sum> sums_;  // [slots]
  uint64_t all_needed_ = 0;
  uint64_t all_choices_ = 0;
  uint64_t predicted_ = 0;
};

boost::json::object ToJson(const PrefetchStudy& study, const PrefetchOptions& options);

}  // namespace sluice
