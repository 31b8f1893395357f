#include "plan/expert_map.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <numeric>
#include <optional>
#include <string>

#include "base/check.h"
#include "base/error.h"

namespace sluice {
namespace {

bool Holds(const std::vector<int>& rank, int expert) {
  return std::binary_search(rank.begin(), rank.end(), expert);
}

void Insert(std::vector<int>& rank, int expert) {
  rank.insert(std::lower_bound(rank.begin(), rank.end(), expert), expert);
}

void Erase(std::vector<int>& rank, int expert) {
  rank.erase(std::lower_bound(rank.begin(), rank.end(), expert));
}

// [experts] load of one replica.
std::vector<double> Shares(std::span<const double> loads, const std::vector<int>& replicas) {
  std::vector<double> shares(loads.begin(), loads.end());
  for (size_t e = 0; e < shares.size(); ++e) shares[e] /= std::max(1, replicas[e]);
  return shares;
}

double Fullest(const ExpertMap& map, std::span<const double> loads) {
  const std::vector<double> ranks = RankLoads(map, loads);
  return *std::max_element(ranks.begin(), ranks.end());
}

// An expert that goes from the fullest rank to `to`, and one that may come back in its place.
struct Move {
  int to = 0;
  int expert = 0;
  std::optional<int> back;
  double fuller = 0.0;  // the load of the fuller of the two ranks afterwards
};

// The move that leaves the fuller of its two ranks with the least load, below what the fullest has.
std::optional<Move> BestMove(const ExpertMap& map, const std::vector<double>& shares,
                             const std::vector<double>& rank_loads, int slots, bool may_swap) {
  const auto from =
      static_cast<int>(std::max_element(rank_loads.begin(), rank_loads.end()) - rank_loads.begin());
  std::optional<Move> best;
  const auto consider = [&](const Move& move) {
    const double before = best ? best->fuller : rank_loads[from];
    if (move.fuller < before * (1.0 - 1e-12)) best = move;
  };
  for (int to = 0; to < map.num_ranks(); ++to) {
    if (to == from) continue;
    for (const int expert : map.ranks[from]) {
      if (Holds(map.ranks[to], expert)) continue;
      const auto after = [&](double back) {
        const double moved = shares[expert] - back;
        return std::max(rank_loads[from] - moved, rank_loads[to] + moved);
      };
      if (static_cast<int>(map.ranks[to].size()) < slots) {
        consider({.to = to, .expert = expert, .back = {}, .fuller = after(0.0)});
      }
      if (!may_swap) continue;
      for (const int back : map.ranks[to]) {
        if (Holds(map.ranks[from], back)) continue;
        consider({.to = to, .expert = expert, .back = back, .fuller = after(shares[back])});
      }
    }
  }
  return best;
}

// Moves experts while that lowers the fullest rank.
void Improve(ExpertMap& map, std::span<const double> loads, const RebalancingLimits& limits) {
  const std::vector<double> shares = Shares(loads, map.Replicas());
  std::vector<double> rank_loads = RankLoads(map, loads);
  // Each move lowers the fullest rank, but by ever less; far more than there are experts is futile.
  int left = std::min(limits.max_moves, 8 * map.num_experts);
  while (left > 0) {
    const std::optional<Move> move =
        BestMove(map, shares, rank_loads, limits.slots_per_rank, left >= 2);
    if (!move) return;
    const auto from = std::max_element(rank_loads.begin(), rank_loads.end()) - rank_loads.begin();
    Erase(map.ranks[from], move->expert);
    Insert(map.ranks[move->to], move->expert);
    if (move->back) {
      Erase(map.ranks[move->to], *move->back);
      Insert(map.ranks[from], *move->back);
    }
    left -= move->back ? 2 : 1;
    rank_loads = RankLoads(map, loads);
  }
}

// Gives `extra` more replicas, one after another, to the expert whose replicas have most each.
void AddReplicas(std::span<const double> loads, int num_ranks, int extra,
                 std::vector<int>& replicas) {
  for (; extra > 0; --extra) {
    int heaviest = -1;
    for (size_t e = 0; e < loads.size(); ++e) {
      const bool can = replicas[e] < num_ranks && loads[e] > 0.0;
      if (can && (heaviest < 0 || loads[e] / replicas[e] > loads[heaviest] / replicas[heaviest])) {
        heaviest = static_cast<int>(e);
      }
    }
    if (heaviest < 0) return;
    ++replicas[heaviest];
  }
}

// Places the replicas, the heaviest first, each on the rank with the least load that has a slot
// free and not yet that expert. A replica that finds no such rank is left out.
ExpertMap Place(std::span<const double> loads, int num_ranks, int slots,
                const std::vector<int>& replicas) {
  const std::vector<double> shares = Shares(loads, replicas);
  std::vector<int> order(loads.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return shares[a] > shares[b]; });
  ExpertMap map{.num_experts = static_cast<int>(loads.size())};
  map.ranks.resize(static_cast<size_t>(num_ranks));
  std::vector<double> rank_loads(static_cast<size_t>(num_ranks));
  for (const int expert : order) {
    for (int r = 0; r < replicas[expert]; ++r) {
      int lightest = -1;
      for (int rank = 0; rank < num_ranks; ++rank) {
        const bool free = static_cast<int>(map.ranks[rank].size()) < slots;
        if (!free || Holds(map.ranks[rank], expert)) continue;
        if (lightest < 0 || rank_loads[rank] < rank_loads[lightest]) lightest = rank;
      }
      if (lightest < 0) break;
      Insert(map.ranks[lightest], expert);
      rank_loads[lightest] += shares[expert];
    }
  }
  return map;
}

void CheckLimits(const ExpertMap& start, std::span<const double> loads,
                 const RebalancingLimits& limits) {
  SLUICE_CHECK_EQ(static_cast<int>(loads.size()), start.num_experts);
  SLUICE_CHECK_GE(start.num_ranks(), 1);
  if (limits.slots_per_rank >= start.MostExperts()) return;
  throw Error(ErrorCode::kInvalidArgument,
              "a rank has slots for " + std::to_string(limits.slots_per_rank) +
                  " experts of a layer, and holds " + std::to_string(start.MostExperts()) +
                  " to begin with; raise the slots or the ranks");
}

}  // namespace

int ExpertMap::MostExperts() const {
  size_t most = 0;
  for (const std::vector<int>& rank : ranks) most = std::max(most, rank.size());
  return static_cast<int>(most);
}

std::vector<int> ExpertMap::Replicas() const {
  std::vector<int> replicas(static_cast<size_t>(num_experts));
  for (const std::vector<int>& rank : ranks) {
    for (const int expert : rank) ++replicas[expert];
  }
  return replicas;
}

ExpertMap ContiguousMap(int num_experts, int num_ranks) {
  SLUICE_CHECK(num_experts >= 1 && num_ranks >= 1);
  ExpertMap map{.num_experts = num_experts};
  map.ranks.resize(static_cast<size_t>(num_ranks));
  for (int expert = 0; expert < num_experts; ++expert) {
    map.ranks[static_cast<size_t>(int64_t{expert} * num_ranks / num_experts)].push_back(expert);
  }
  return map;
}

std::vector<double> RankLoads(const ExpertMap& map, std::span<const double> loads) {
  const std::vector<double> shares = Shares(loads, map.Replicas());
  std::vector<double> rank_loads(map.ranks.size());
  for (size_t rank = 0; rank < map.ranks.size(); ++rank) {
    for (const int expert : map.ranks[rank]) rank_loads[rank] += shares[expert];
  }
  return rank_loads;
}

const char* RebalancingName(Rebalancing kind) {
  switch (kind) {
    case Rebalancing::kMigrate:
      return "migrate";
    case Rebalancing::kRemap:
      return "remap";
    case Rebalancing::kReplicate:
      return "replicate";
  }
  return "unknown";
}

ExpertMap Rebalance(Rebalancing kind, const ExpertMap& start, std::span<const double> loads,
                    const RebalancingLimits& limits) {
  CheckLimits(start, loads, limits);
  ExpertMap map = start;
  if (kind == Rebalancing::kMigrate) {
    Improve(map, loads, limits);
  } else {
    std::vector<int> replicas(loads.size(), 1);
    if (kind == Rebalancing::kReplicate) {
      const int slots = limits.slots_per_rank * start.num_ranks();
      AddReplicas(loads, start.num_ranks(), slots - start.num_experts, replicas);
    }
    map = Place(loads, start.num_ranks(), limits.slots_per_rank, replicas);
    Improve(map, loads, {.slots_per_rank = limits.slots_per_rank});
  }
  return Fullest(map, loads) < Fullest(start, loads) ? map : start;
}

int MovedExperts(const ExpertMap& from, const ExpertMap& to) {
  SLUICE_CHECK_EQ(from.num_ranks(), to.num_ranks());
  int moved = 0;
  for (size_t rank = 0; rank < to.ranks.size(); ++rank) {
    std::vector<int> added;
    std::set_difference(to.ranks[rank].begin(), to.ranks[rank].end(), from.ranks[rank].begin(),
                        from.ranks[rank].end(), std::back_inserter(added));
    moved += static_cast<int>(added.size());
  }
  return moved;
}

}  // namespace sluice
