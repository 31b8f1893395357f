#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "trace/router_trace.h"

namespace sluice {

// Which expert leaves a full cache.
enum class CachePolicy {
  kLru,     // the one whose last use is longest ago
  kLfu,     // the one used least often since it came; of several, the least recently used
  kBelady,  // the one whose next use is farthest away: no policy has more hits
};

// "lru", "lfu", "belady"; ParseCachePolicy reads the same names.
const char* CachePolicyName(CachePolicy policy);
std::optional<CachePolicy> ParseCachePolicy(std::string_view name);

// The experts that a run of steps needs, one after another: each expert once for every step and
// layer in which some token chose it.
struct ExpertAccesses {
  int num_keys = 0;            // layers * experts
  std::vector<uint32_t> keys;  // layer * experts + expert, in the order of use
  uint64_t steps = 0;          // that the accesses are of
  uint64_t tokens = 0;         // tokens in layers: records read
  uint64_t layer_steps = 0;    // pairs of step and layer
  bool complete = true;        // false: the trace went on past the bound
};

// Reads the accesses of a trace, whole steps until `max_accesses` is passed. A step's layers are
// taken as recorded, a layer's experts in ascending order.
ExpertAccesses ReadAccesses(BatchSource& source, uint64_t max_accesses);

struct CacheResult {
  uint64_t accesses = 0;
  uint64_t hits = 0;
  double HitRate() const {
    return accesses == 0 ? 0.0 : static_cast<double>(hits) / static_cast<double>(accesses);
  }
};

// Runs the accesses through a cache of `slots` experts, empty at first, that all layers share.
CacheResult SimulateCache(const ExpertAccesses& accesses, int slots, CachePolicy policy);

// Hit rates by size of the cache.
struct CacheCurve {
  CachePolicy policy = CachePolicy::kLru;
  std::vector<int> slots;         // ascending, from 0 to all keys
  std::vector<double> hit_rates;  // never falling: a cache may leave slots empty

  // Between two sizes, on the line through them.
  double At(int size) const;
};

// The curve at points + 1 sizes, evenly spaced.
CacheCurve MeasureCurve(const ExpertAccesses& accesses, CachePolicy policy, int points);

}  // namespace sluice
