#pragma once

#include <span>
#include <vector>

namespace sluice {

// Which ranks hold which experts of one layer. An expert may have replicas, never two on a rank;
// its load is split evenly among them.
struct ExpertMap {
  int num_experts = 0;
  std::vector<std::vector<int>> ranks;  // [ranks] experts, ascending

  int num_ranks() const { return static_cast<int>(ranks.size()); }
  // Experts of the rank that has most.
  int MostExperts() const;
  // [num_experts] ranks that hold each.
  std::vector<int> Replicas() const;
};

// Expert e on rank e * ranks / experts, as expert parallelism cuts them.
ExpertMap ContiguousMap(int num_experts, int num_ranks);

// [ranks] load of each, from that of each expert.
std::vector<double> RankLoads(const ExpertMap& map, std::span<const double> loads);

enum class Rebalancing {
  kMigrate,    // moves or swaps experts one by one, each time what lowers the fullest rank most
  kRemap,      // places all anew: the heaviest first, on the rank with the least load so far
  kReplicate,  // gives free slots to further replicas of the heaviest, then places all anew
};
const char* RebalancingName(Rebalancing kind);

// What a rebalancing may use.
struct RebalancingLimits {
  int slots_per_rank = 0;   // experts that a rank's memory holds of this layer
  int max_moves = 1 << 30;  // of kMigrate: experts that change their rank; a swap is two
};

// A map with no higher load on its fullest rank than `start` has; `start` itself when none is
// found. Throws Error(kInvalidArgument) when slots_per_rank does not hold what `start` puts on a
// rank.
ExpertMap Rebalance(Rebalancing kind, const ExpertMap& start, std::span<const double> loads,
                    const RebalancingLimits& limits);

// Experts that `to` has on a rank and `from` has not: the weights that must be sent.
int MovedExperts(const ExpertMap& from, const ExpertMap& to);

}  // namespace sluice
