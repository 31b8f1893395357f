#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "trace/router_trace.h"

namespace sluice {

// How many tokens each expert of each layer was given.
struct LoadCounts {
  int num_layers = 0;
  int num_experts = 0;
  std::vector<uint64_t> counts;  // [layers, experts]
  std::vector<uint64_t> uses;    // [layers, experts] batches with tokens for it; empty: not known
  uint64_t first_step = 0;
  uint64_t last_step = 0;

  static LoadCounts Zero(int num_layers, int num_experts);
  std::span<const uint64_t> Layer(int layer) const;
  std::vector<double> Loads(int layer) const;
  // Batches with tokens for each expert of the layer; 1 for those with load where it is not known.
  std::vector<double> Uses(int layer) const;
  // What each expert of the layer costs: the longer of reading its weights whenever it has tokens,
  // `use_s` each time, and of its tokens, `token_s` each.
  std::vector<double> Costs(int layer, double use_s, double token_s) const;
  bool HasLoad(int layer) const;
  void Add(const RouterBatch& batch);
  // Of the same layers and experts, of later steps.
  void Add(const LoadCounts& later);
};

// Counts kept for windows of time. However long the run, there are at most kMaxWindows of them:
// when one more is needed, neighbours are joined and windows are twice as long from then on.
class WindowedCounts {
 public:
  // `steps_per_window` at least 1.
  WindowedCounts(int num_layers, int num_experts, uint64_t steps_per_window);

  void Add(const RouterBatch& batch);

  static constexpr size_t kMaxWindows = 64;
  const std::vector<LoadCounts>& windows() const { return windows_; }
  uint64_t steps_per_window() const { return steps_per_window_; }
  // All windows together.
  LoadCounts Total() const;

 private:
  void JoinNeighbours();

  int num_layers_;
  int num_experts_;
  uint64_t steps_per_window_;
  uint64_t steps_ = 0;  // in the last window
  std::vector<LoadCounts> windows_;
};

// Reads counts from CSV: a line for each layer, a count for each expert, as other tools export
// them. Empty lines and lines that begin with # are skipped. Throws Error: kNotFound, kDataLoss
// naming the line that holds anything but counts of 0 to 2^53, or another number of them than the
// first.
LoadCounts ReadCountsCsv(const std::filesystem::path& path);

}  // namespace sluice
