#pragma once

#include <chrono>
#include <deque>
#include <optional>

namespace sluice {

// How often a lost worker is started again: at once, then after pauses that double, so many times
// in a stretch of time. More would hide a fault that stays.
struct RestartLimits {
  int most = 5;
  std::chrono::seconds within{600};
  std::chrono::milliseconds first_pause{1000};
};

// Counts the tries of the last stretch. The caller's clock.
class RestartBudget {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  explicit RestartBudget(const RestartLimits& limits) : limits_(limits) {}

  // Takes one try: the pause before it. None when those of the stretch are used up.
  std::optional<std::chrono::milliseconds> Take(TimePoint now) {
    while (!tries_.empty() && tries_.front() <= now - limits_.within) tries_.pop_front();
    const auto taken = static_cast<int>(tries_.size());
    if (taken >= limits_.most) return std::nullopt;
    tries_.push_back(now);
    return taken == 0 ? std::chrono::milliseconds(0) : limits_.first_pause * (1 << (taken - 1));
  }

 private:
  const RestartLimits limits_;
  std::deque<TimePoint> tries_;
};

}  // namespace sluice
