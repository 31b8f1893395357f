#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/shared_counts.h"
#include "offload/expert_link.h"
#include "offload/offload_stats.h"

namespace sluice {

// What a server shows of offloading: OffloadStats and LinkUse, where its worker may be another
// process (SharedCounts). Times are whole nanoseconds there.
class OffloadCounters {
 public:
  explicit OffloadCounters(int num_layers);
  // Of another process's descriptor().
  OffloadCounters(int num_layers, int memory);

  int num_layers() const { return num_layers_; }
  int descriptor() const { return counts_.descriptor(); }

  // Adds what came about since this object's last call.
  void Publish(const OffloadStats& stats, const LinkUse& link);
  void SetSlots(int expert_slots, int host_slots);

  // Of the n-th layer that has experts.
  LayerOffloadStats Layer(int nth) const;
  LinkUse Link() const;
  int expert_slots() const { return static_cast<int>(counts_.Read(kExpertSlots)); }
  int host_slots() const { return static_cast<int>(counts_.Read(kHostSlots)); }

 private:
  // Places of counts; the layers' are behind them.
  static constexpr size_t kExpertSlots = 0;
  static constexpr size_t kHostSlots = 1;
  static constexpr size_t kCopies = 2;
  static constexpr size_t kBytes = 3;
  static constexpr size_t kBusy = 4;
  static constexpr size_t kLayers = 5;

  size_t PlaceOf(int nth) const;

  const int num_layers_;
  SharedCounts counts_;
  OffloadStats published_;
  LinkUse published_link_;
};

}  // namespace sluice
