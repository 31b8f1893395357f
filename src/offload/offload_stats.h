#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace sluice {

// What offloading did for one layer, or for all, since the model was loaded. An expert counts once
// for each run of its layer that needs it, however many tokens it has there.
struct LayerOffloadStats {
  uint64_t requests = 0;       // experts needed: hits + misses + cpu
  uint64_t hits = 0;           // in a slot, or on the way to one, when the router chose
  uint64_t misses = 0;         // asked for then
  uint64_t cpu = 0;            // computed where they were
  uint64_t failed = 0;         // of misses: could not be read
  uint64_t prefetched = 0;     // asked for before the router chose
  uint64_t prefetch_used = 0;  // of prefetched: needed; they are among the hits
  uint64_t forecast = 0;       // experts needed where a forecast was made
  uint64_t forecast_hits = 0;  // of them: among the as many that were foretold likeliest
  uint64_t link_bytes = 0;     // that were asked for over the link
  uint64_t disk_bytes = 0;     // that were asked for from the checkpoint
  double wait_s = 0.0;         // compute waited for those behind the layer's first and the CPU's
  double between_s = 0.0;      // compute waited for the first ones after the router had chosen
};

// All of them, for whoever goes through them.
inline constexpr uint64_t LayerOffloadStats::*kOffloadCounts[] = {
    &LayerOffloadStats::requests,      &LayerOffloadStats::hits,
    &LayerOffloadStats::misses,        &LayerOffloadStats::cpu,
    &LayerOffloadStats::failed,        &LayerOffloadStats::prefetched,
    &LayerOffloadStats::prefetch_used, &LayerOffloadStats::forecast,
    &LayerOffloadStats::forecast_hits, &LayerOffloadStats::link_bytes,
    &LayerOffloadStats::disk_bytes};
inline constexpr double LayerOffloadStats::*kOffloadTimes[] = {&LayerOffloadStats::wait_s,
                                                               &LayerOffloadStats::between_s};

inline LayerOffloadStats Total(std::span<const LayerOffloadStats> layers) {
  LayerOffloadStats total;
  for (const LayerOffloadStats& layer : layers) {
    for (const auto count : kOffloadCounts) total.*count += layer.*count;
    for (const auto time : kOffloadTimes) total.*time += layer.*time;
  }
  return total;
}

// What came about between two looks at the same layer.
inline LayerOffloadStats Since(const LayerOffloadStats& before, const LayerOffloadStats& now) {
  LayerOffloadStats since = now;
  for (const auto count : kOffloadCounts) since.*count -= before.*count;
  for (const auto time : kOffloadTimes) since.*time -= before.*time;
  return since;
}

struct OffloadStats {
  std::vector<LayerOffloadStats> layers;  // those with routed experts, ascending

  LayerOffloadStats Total() const { return sluice::Total(layers); }
};

}  // namespace sluice
