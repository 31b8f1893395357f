#include "study/placement_replay.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/check.h"

namespace sluice {

std::vector<Placement> MakePlacements(const LoadCounts& counts, int ranks, int slots, int max_moves,
                                      const ExpertCost& cost) {
  const ExpertMap start = ContiguousMap(counts.num_experts, ranks);
  std::vector<Placement> placements{{.name = "contiguous"}};
  placements[0].layers.assign(static_cast<size_t>(counts.num_layers), start);
  for (const Rebalancing kind :
       {Rebalancing::kMigrate, Rebalancing::kRemap, Rebalancing::kReplicate}) {
    const bool uses_all = kind == Rebalancing::kReplicate;
    const RebalancingLimits limits{
        .slots_per_rank = uses_all ? slots : std::min(slots, start.MostExperts()),
        .max_moves = max_moves};
    Placement placement{.name = RebalancingName(kind)};
    for (int layer = 0; layer < counts.num_layers; ++layer) {
      placement.layers.push_back(
          Rebalance(kind, start, counts.Costs(layer, cost.weights_s, cost.token_s), limits));
      placement.moved += MovedExperts(start, placement.layers.back());
    }
    placements.push_back(std::move(placement));
  }
  return placements;
}

namespace {

// Sums over layers and windows.
struct CountedCost {
  double slowest_s = 0.0;
  double even_s = 0.0;
  double fullest = 0.0;  // tokens on the fullest rank, times ranks
  double tokens = 0.0;
};

void AddLayer(const ExpertMap& map, const LoadCounts& counts, int layer, const ExpertCost& cost,
              CountedCost& sum) {
  const std::vector<double> loads = counts.Loads(layer);
  const std::vector<double> uses = counts.Uses(layer);
  const std::vector<int> replicas = map.Replicas();
  const std::vector<double> ranks = RankLoads(map, loads);
  const auto num_ranks = static_cast<double>(ranks.size());
  double slowest = 0.0;
  double all_uses = 0.0;
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    double read = 0.0;
    for (const int expert : map.ranks[rank]) {
      const auto e = static_cast<size_t>(expert);
      // A replica is used no more often than it has tokens.
      read += std::min(uses[e], std::ceil(loads[e] / replicas[e]));
    }
    slowest = std::max({slowest, read * cost.weights_s, ranks[rank] * cost.token_s});
    all_uses += read;
  }
  const double tokens = std::accumulate(loads.begin(), loads.end(), 0.0);
  sum.slowest_s += slowest;
  sum.even_s += std::max(all_uses * cost.weights_s, tokens * cost.token_s) / num_ranks;
  sum.fullest += *std::max_element(ranks.begin(), ranks.end()) * num_ranks;
  sum.tokens += tokens;
}

}  // namespace

PlacementCost CostOfCounts(const Placement& placement, std::span<const LoadCounts> windows,
                           const ExpertCost& cost) {
  CountedCost sum;
  uint64_t steps = 0;
  for (const LoadCounts& window : windows) {
    steps += window.last_step - window.first_step + 1;
    for (int layer = 0; layer < window.num_layers; ++layer) {
      AddLayer(placement.layers[static_cast<size_t>(layer)], window, layer, cost, sum);
    }
  }
  SLUICE_CHECK_GE(steps, 1u);
  const auto count = static_cast<double>(steps);
  return {.expert_s = sum.slowest_s / count,
          .even_s = sum.even_s / count,
          .max_over_mean = sum.tokens > 0.0 ? sum.fullest / sum.tokens : 1.0};
}

PlacementReplay::PlacementReplay(std::vector<Placement> placements, const ExpertCost& cost)
    : placements_(std::move(placements)), cost_(cost), sums_(placements_.size()) {
  for (const Placement& placement : placements_) {
    auto& layers = homes_.emplace_back();
    for (const ExpertMap& map : placement.layers) {
      auto& homes = layers.emplace_back(static_cast<size_t>(map.num_experts));
      for (int rank = 0; rank < map.num_ranks(); ++rank) {
        for (const int expert : map.ranks[rank]) homes[expert].push_back(rank);
      }
      counts_.resize(homes.size());
    }
  }
}

void PlacementReplay::Add(const RouterBatch& batch) {
  std::fill(counts_.begin(), counts_.end(), 0);
  for (const uint16_t expert : batch.experts) ++counts_[expert];
  all_tokens_ += static_cast<double>(batch.experts.size());
  if (steps_ == 0 || batch.step != last_step_) ++steps_;
  last_step_ = batch.step;
  for (size_t p = 0; p < placements_.size(); ++p) AddTo(p, batch.layer);
}

void PlacementReplay::AddTo(size_t placement, int layer) {
  const auto& homes = homes_[placement][static_cast<size_t>(layer)];
  const size_t ranks = placements_[placement].layers[static_cast<size_t>(layer)].ranks.size();
  tokens_.assign(ranks, 0.0);
  distinct_.assign(ranks, 0);
  double tokens = 0.0;
  int distinct = 0;
  for (size_t expert = 0; expert < counts_.size(); ++expert) {
    const uint32_t count = counts_[expert];
    if (count == 0) continue;
    const size_t replicas = homes[expert].size();
    for (size_t r = 0; r < replicas && r < count; ++r) {
      // Another replica is first in each step, so that single tokens too are spread.
      const int rank = homes[expert][(r + steps_) % replicas];
      const size_t part = (count - r + replicas - 1) / replicas;
      tokens_[rank] += static_cast<double>(part);
      ++distinct_[rank];
    }
    tokens += count;
    ++distinct;
  }
  double slowest = 0.0;
  for (size_t rank = 0; rank < ranks; ++rank) {
    slowest = std::max({slowest, distinct_[rank] * cost_.weights_s, tokens_[rank] * cost_.token_s});
  }
  Sum& sum = sums_[placement];
  sum.slowest_s += slowest;
  sum.even_s +=
      std::max(distinct * cost_.weights_s, tokens * cost_.token_s) / static_cast<double>(ranks);
  sum.fullest += *std::max_element(tokens_.begin(), tokens_.end()) * static_cast<double>(ranks);
}

std::vector<PlacementCost> PlacementReplay::Costs() const {
  std::vector<PlacementCost> costs(sums_.size());
  if (steps_ == 0) return costs;
  for (size_t p = 0; p < sums_.size(); ++p) {
    costs[p] = {.expert_s = sums_[p].slowest_s / static_cast<double>(steps_),
                .even_s = sums_[p].even_s / static_cast<double>(steps_),
                .max_over_mean = sums_[p].fullest / all_tokens_};
  }
  return costs;
}

}  // namespace sluice
