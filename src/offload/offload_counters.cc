#include "offload/offload_counters.h"

#include <cmath>
#include <iterator>

#include "base/check.h"

namespace sluice {
namespace {

constexpr size_t kOfLayer = std::size(kOffloadCounts) + std::size(kOffloadTimes);

uint64_t Nanoseconds(double seconds) {
  return static_cast<uint64_t>(std::llround(seconds * 1e9));
}

// Both are rounded, so that nothing is lost from one difference to the next.
uint64_t NanosecondsSince(double before_s, double now_s) {
  return Nanoseconds(now_s) - Nanoseconds(before_s);
}

}  // namespace

OffloadCounters::OffloadCounters(int num_layers)
    : num_layers_(num_layers), counts_(kLayers + num_layers * kOfLayer) {}

OffloadCounters::OffloadCounters(int num_layers, int memory)
    : num_layers_(num_layers), counts_(kLayers + num_layers * kOfLayer, memory) {}

size_t OffloadCounters::PlaceOf(int nth) const {
  SLUICE_CHECK(nth >= 0 && nth < num_layers_);
  return kLayers + static_cast<size_t>(nth) * kOfLayer;
}

void OffloadCounters::Publish(const OffloadStats& stats, const LinkUse& link) {
  SLUICE_CHECK_EQ(std::ssize(stats.layers), num_layers_);
  published_.layers.resize(stats.layers.size());
  for (int nth = 0; nth < num_layers_; ++nth) {
    const LayerOffloadStats& now = stats.layers[nth];
    const LayerOffloadStats& before = published_.layers[nth];
    size_t place = PlaceOf(nth);
    for (const auto count : kOffloadCounts) counts_.Add(place++, now.*count - before.*count);
    for (const auto time : kOffloadTimes)
      counts_.Add(place++, NanosecondsSince(before.*time, now.*time));
  }
  counts_.Add(kCopies, link.copies - published_link_.copies);
  counts_.Add(kBytes, link.bytes - published_link_.bytes);
  counts_.Add(kBusy, NanosecondsSince(published_link_.busy_s, link.busy_s));
  published_ = stats;
  published_link_ = link;
}

void OffloadCounters::SetSlots(int expert_slots, int host_slots) {
  counts_.Set(kExpertSlots, expert_slots);
  counts_.Set(kHostSlots, host_slots);
}

LayerOffloadStats OffloadCounters::Layer(int nth) const {
  LayerOffloadStats stats;
  size_t place = PlaceOf(nth);
  for (const auto count : kOffloadCounts) stats.*count = counts_.Read(place++);
  for (const auto time : kOffloadTimes)
    stats.*time = static_cast<double>(counts_.Read(place++)) * 1e-9;
  return stats;
}

LinkUse OffloadCounters::Link() const {
  return {.copies = counts_.Read(kCopies),
          .bytes = counts_.Read(kBytes),
          .busy_s = static_cast<double>(counts_.Read(kBusy)) * 1e-9};
}

}  // namespace sluice
