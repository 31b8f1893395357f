#pragma once

#include <span>
#include <string>
#include <vector>

#include "plan/expert_map.h"
#include "study/load_counts.h"

namespace sluice {

// What a rank's experts cost in one layer of one step: whichever takes longer of reading the
// weights of each expert that has tokens, and the arithmetic of all its tokens.
struct ExpertCost {
  double weights_s = 0.0;  // to read one expert's weights
  double token_s = 1.0;    // one token through one expert
};

// Where the experts of every layer are.
struct Placement {
  std::string name;
  std::vector<ExpertMap> layers;  // [layers]
  int moved = 0;                  // experts that must be sent to a rank to get there
};

// The contiguous placement, and what each rebalancing makes of it for the counted loads. `slots`
// are a rank's, for one layer. Replication uses all of them, the others as many as the contiguous
// placement has. Throws Error(kInvalidArgument) when that is more than `slots`.
std::vector<Placement> MakePlacements(const LoadCounts& counts, int ranks, int slots, int max_moves,
                                      const ExpertCost& cost);

// What a placement costs on a run: every layer waits for its slowest rank.
struct PlacementCost {
  double expert_s = 0.0;       // mean of a step: all layers, the slowest rank of each
  double even_s = 0.0;         // the same if all ranks shared the work of each layer evenly
  double max_over_mean = 1.0;  // of tokens on ranks in a layer of a step, mean weighted by tokens
};

// What a placement costs on loads that were counted over windows of steps, one at least: the steps
// of a window are taken for alike, so that what differs from one to the next is not seen. Where
// uses are not known, a window's experts are taken for used once.
PlacementCost CostOfCounts(const Placement& placement, std::span<const LoadCounts> windows,
                           const ExpertCost& cost);

// Runs steps through several placements at once. The tokens of an expert with replicas take them in
// turn.
class PlacementReplay {
 public:
  PlacementReplay(std::vector<Placement> placements, const ExpertCost& cost);

  void Add(const RouterBatch& batch);

  const std::vector<Placement>& placements() const { return placements_; }
  // [placements]
  std::vector<PlacementCost> Costs() const;

 private:
  struct Sum {
    double slowest_s = 0.0;
    double even_s = 0.0;
    double fullest = 0.0;  // tokens on the fullest rank, times ranks
  };
  void AddTo(size_t placement, int layer);

  std::vector<Placement> placements_;
  ExpertCost cost_;
  std::vector<std::vector<std::vector<std::vector<int>>>> homes_;  // [placement][layer][expert]
  std::vector<Sum> sums_;                                          // [placements]
  std::vector<uint32_t> counts_;                                   // [experts] of the batch at hand
  std::vector<double> tokens_;                                     // [ranks], scratch
  std::vector<int> distinct_;                                      // [ranks], scratch
  double all_tokens_ = 0.0;
  uint64_t steps_ = 0;
  uint64_t last_step_ = 0;
};

}  // namespace sluice
