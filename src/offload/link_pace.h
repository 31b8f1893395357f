#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>

#include "offload/simulated_link.h"

namespace sluice {

// When the copies of a simulated link begin and end, one after another. A copy takes latency_s +
// bytes / bytes_per_s, or as long as memory did where that is more.
class LinkPace {
 public:
  using Clock = std::chrono::steady_clock;
  struct Times {
    Clock::time_point begin;
    Clock::time_point end;
  };

  explicit LinkPace(const SimulatedLink& link) : link_(link) {}

  // Of the next copy, for which memory took `copied`. They follow from when it was queued and when
  // the one before ended, not from now: a thread that wakes late makes no copy longer.
  Times Next(Clock::time_point queued, Clock::duration copied, size_t bytes) {
    const Clock::time_point begin = std::max(queued, free_at_);
    free_at_ = begin + std::max(copied, TimeOf(bytes));
    return {.begin = begin, .end = free_at_};
  }

 private:
  Clock::duration TimeOf(size_t bytes) const {
    const double transfer =
        link_.bytes_per_s > 0 ? static_cast<double>(bytes) / link_.bytes_per_s : 0.0;
    return std::chrono::duration_cast<Clock::duration>(
        std::chrono::duration<double>(link_.latency_s + transfer));
  }

  SimulatedLink link_;
  Clock::time_point free_at_;
};

}  // namespace sluice
