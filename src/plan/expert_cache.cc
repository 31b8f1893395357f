#include "plan/expert_cache.h"

#include <algorithm>
#include <limits>
#include <set>
#include <tuple>

#include "base/check.h"

namespace sluice {
namespace {

constexpr uint64_t kNever = std::numeric_limits<uint64_t>::max();

// For each access, when its key is used next; kNever for the last use.
std::vector<uint64_t> NextUses(const ExpertAccesses& accesses) {
  std::vector<uint64_t> seen(static_cast<size_t>(accesses.num_keys), kNever);
  std::vector<uint64_t> next(accesses.keys.size());
  for (size_t i = accesses.keys.size(); i-- > 0;) {
    next[i] = seen[accesses.keys[i]];
    seen[accesses.keys[i]] = i;
  }
  return next;
}

// What decides who leaves: the smallest goes first.
using Rank = std::pair<uint64_t, uint64_t>;

struct Entry {
  bool cached = false;
  uint64_t uses = 0;
  Rank rank;
};

Rank RankOf(CachePolicy policy, uint64_t now, uint64_t uses, uint64_t next_use) {
  switch (policy) {
    case CachePolicy::kLru:
      return {now, 0};
    case CachePolicy::kLfu:
      return {uses, now};
    case CachePolicy::kBelady:
      return {kNever - next_use, now};
  }
  return {};
}

}  // namespace

const char* CachePolicyName(CachePolicy policy) {
  switch (policy) {
    case CachePolicy::kLru:
      return "lru";
    case CachePolicy::kLfu:
      return "lfu";
    case CachePolicy::kBelady:
      return "belady";
  }
  return "unknown";
}

std::optional<CachePolicy> ParseCachePolicy(std::string_view name) {
  for (const CachePolicy policy : {CachePolicy::kLru, CachePolicy::kLfu, CachePolicy::kBelady}) {
    if (name == CachePolicyName(policy)) return policy;
  }
  return std::nullopt;
}

ExpertAccesses ReadAccesses(BatchSource& source, uint64_t max_accesses) {
  const int experts = source.header().num_experts;
  ExpertAccesses accesses{.num_keys = source.header().num_layers * experts};
  RouterBatch batch;
  std::vector<bool> chosen(static_cast<size_t>(experts));  // of the layer at hand
  std::optional<std::pair<uint64_t, int>> at;              // step and layer
  const auto finish_layer = [&] {
    if (!at) return;
    for (int expert = 0; expert < experts; ++expert) {
      if (chosen[expert])
        accesses.keys.push_back(static_cast<uint32_t>(at->second * experts + expert));
    }
    chosen.assign(chosen.size(), false);
    ++accesses.layer_steps;
  };
  while (source.NextBatch(batch)) {
    const bool is_new_step = !at || at->first != batch.step;
    if (is_new_step || at->second != batch.layer) finish_layer();
    at = {batch.step, batch.layer};
    if (is_new_step) {
      if (accesses.keys.size() >= max_accesses) {
        accesses.complete = false;
        return accesses;
      }
      ++accesses.steps;
    }
    for (const uint16_t expert : batch.experts) chosen[expert] = true;
    accesses.tokens += batch.size();
  }
  finish_layer();
  return accesses;
}

CacheResult SimulateCache(const ExpertAccesses& accesses, int slots, CachePolicy policy) {
  SLUICE_CHECK_GE(slots, 0);
  const std::vector<uint64_t> next =
      policy == CachePolicy::kBelady ? NextUses(accesses) : std::vector<uint64_t>();
  std::vector<Entry> entries(static_cast<size_t>(accesses.num_keys));
  std::set<std::pair<Rank, uint32_t>> cached;  // who leaves first comes first
  CacheResult result{.accesses = accesses.keys.size()};
  for (size_t i = 0; i < accesses.keys.size(); ++i) {
    const uint32_t key = accesses.keys[i];
    SLUICE_CHECK_LT(key, entries.size());
    Entry& entry = entries[key];
    if (entry.cached) {
      ++result.hits;
      cached.erase({entry.rank, key});
    } else if (slots > 0 && cached.size() == static_cast<size_t>(slots)) {
      entries[cached.begin()->second] = {};
      cached.erase(cached.begin());
    }
    if (slots == 0) continue;
    ++entry.uses;
    entry.cached = true;
    entry.rank = RankOf(policy, i, entry.uses, next.empty() ? 0 : next[i]);
    cached.insert({entry.rank, key});
  }
  return result;
}

double CacheCurve::At(int size) const {
  SLUICE_CHECK(!slots.empty() && size >= 0);
  const auto above = std::upper_bound(slots.begin(), slots.end(), size);
  if (above == slots.end()) return hit_rates.back();
  const size_t i = static_cast<size_t>(above - slots.begin());
  const double share =
      static_cast<double>(size - slots[i - 1]) / static_cast<double>(slots[i] - slots[i - 1]);
  return hit_rates[i - 1] + share * (hit_rates[i] - hit_rates[i - 1]);
}

CacheCurve MeasureCurve(const ExpertAccesses& accesses, CachePolicy policy, int points) {
  SLUICE_CHECK_GE(points, 1);
  CacheCurve curve{.policy = policy};
  for (int i = 0; i <= points; ++i) {
    const int slots = static_cast<int>(int64_t{accesses.num_keys} * i / points);
    if (!curve.slots.empty() && slots == curve.slots.back()) continue;
    const double rate = SimulateCache(accesses, slots, policy).HitRate();
    curve.slots.push_back(slots);
    curve.hit_rates.push_back(curve.hit_rates.empty() ? rate
                                                      : std::max(rate, curve.hit_rates.back()));
  }
  return curve;
}

}  // namespace sluice
