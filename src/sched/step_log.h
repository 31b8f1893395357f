#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "request/step.h"

namespace sluice {

// What an engine's thread does with a step. Where a worker has two steps under way, it plans and
// submits the second before it waits for the first.
enum class StepPhase { kPlan, kSubmit, kCollect, kCommit, kReport };
inline constexpr size_t kNumStepPhases = 5;

// How long a step took.
struct StepTiming {
  uint64_t step = 0;
  std::chrono::system_clock::time_point planned;
  int sequences = 0;
  int prefill_rows = 0;
  int decode_rows = 0;  // drafts among them
  bool failed = false;
  std::array<std::chrono::nanoseconds, kNumStepPhases> phases{};  // kCollect is the waiting

  std::chrono::nanoseconds phase(StepPhase phase) const {
    return phases[static_cast<size_t>(phase)];
  }
  // Takes in what is known of the step once it is planned.
  void Describe(const StepPlan& plan);
};

// Knows what an engine's thread is at, and remembers its last steps. One thread tells, any asks.
class StepLog {
 public:
  explicit StepLog(size_t capacity = 256) : capacity_(capacity) {}

  // Times a phase of a step into `timing`, as long as it lives.
  class Timer {
   public:
    Timer(StepLog& log, StepPhase phase, StepTiming& timing);
    ~Timer();
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;

   private:
    StepLog& log_;
    const StepPhase phase_;
    StepTiming& timing_;
  };

  // A step is over.
  void Add(const StepTiming& timing);

  // The last steps that are over, oldest first.
  std::vector<StepTiming> Recent() const;

  // What the thread has been at for longer than `limit`; none where it gets on.
  std::optional<std::string> StuckFor(std::chrono::milliseconds limit) const;

 private:
  struct Activity {
    StepPhase phase = StepPhase::kPlan;
    uint64_t step = 0;
    int sequences = 0;
    std::chrono::steady_clock::time_point since;
  };

  const size_t capacity_;
  mutable std::mutex mutex_;  // guards what follows
  std::optional<Activity> activity_;
  std::deque<StepTiming> recent_;
};

}  // namespace sluice
