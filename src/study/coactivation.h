#pragma once

#include <boost/json/array.hpp>
#include <cstdint>
#include <vector>

#include "trace/router_trace.h"

namespace sluice {

// Two experts that tokens chose together.
struct ExpertPair {
  int layer = 0;       // of `first`
  int next_layer = 0;  // of `second`: the same, or the next that routes
  int first = 0;
  int second = 0;
  uint64_t tokens = 0;  // that chose both
  double lift = 0.0;    // times as many as if the two choices were independent
};

// Counts which experts tokens choose together, within a layer and from one to the next that routes.
// Keeps 2 * layers * experts^2 counts of 32 bits.
class CoActivation {
 public:
  // Throws Error(kResourceExhausted) for a model whose counts would pass kMaxCounts.
  explicit CoActivation(const RouterTraceHeader& header);
  static constexpr uint64_t kMaxCounts = uint64_t{1} << 28;

  // Batches in the order of the trace. A token is followed to the next layer where that layer's
  // batch has the same tokens in the same order, as an engine records them; else not.
  void Add(const RouterBatch& batch);

  // The pairs with most tokens, of all layers: at most `count`.
  std::vector<ExpertPair> MostWithin(size_t count) const { return Most(within_, true, count); }
  std::vector<ExpertPair> MostAcross(size_t count) const { return Most(across_, false, count); }

  // Of tokens in layers that another follows in the same step, the share that was followed.
  double FollowedShare() const;

 private:
  void AddWithin(const RouterBatch& batch);
  void AddAcross(const RouterBatch& batch);
  std::vector<ExpertPair> Most(const std::vector<uint32_t>& of, bool within, size_t count) const;
  double Lift(const ExpertPair& pair) const;

  RouterTraceHeader header_;
  size_t experts_;
  size_t top_k_;
  std::vector<uint32_t> within_;   // [layers, experts, experts], first < second
  std::vector<uint32_t> across_;   // [layers, experts, experts of the next layer]
  std::vector<uint64_t> singles_;  // [layers, experts]
  std::vector<uint64_t> tokens_;   // [layers]
  std::vector<int> next_;          // [layers] the one that follows; -1 when none was seen
  RouterBatch previous_;
  uint64_t followed_ = 0;
  uint64_t followable_ = 0;
};

boost::json::array ToJson(const std::vector<ExpertPair>& pairs);

}  // namespace sluice
