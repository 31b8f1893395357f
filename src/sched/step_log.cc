#include "sched/step_log.h"

#include <fmt/format.h>

namespace sluice {

namespace {

using Clock = std::chrono::steady_clock;

// A decoding sequence has every row sampled, a prefill at most its last.
bool Decodes(const SequenceSlice& slice) {
  return slice.sample.generated > 0 && slice.sample_rows.size() == slice.tokens.size();
}

std::string Describe(StepPhase phase, uint64_t step, int sequences) {
  switch (phase) {
    case StepPhase::kPlan:
      return "planning a step";
    case StepPhase::kSubmit:
      return fmt::format("submitting step {} with {} sequences", step, sequences);
    case StepPhase::kCollect:
      return fmt::format("running step {} with {} sequences", step, sequences);
    case StepPhase::kCommit:
      return fmt::format("committing step {} with {} sequences", step, sequences);
    case StepPhase::kReport:
      return fmt::format("reporting step {} with {} sequences", step, sequences);
  }
  return "";
}

}  // namespace

void StepTiming::Describe(const StepPlan& plan) {
  step = plan.step;
  planned = std::chrono::system_clock::now();
  sequences = static_cast<int>(plan.slices.size());
  for (const SequenceSlice& slice : plan.slices) {
    (Decodes(slice) ? decode_rows : prefill_rows) += static_cast<int>(slice.tokens.size());
  }
}

StepLog::Timer::Timer(StepLog& log, StepPhase phase, StepTiming& timing)
    : log_(log), phase_(phase), timing_(timing) {
  const std::lock_guard lock(log_.mutex_);
  log_.activity_ = {
      .phase = phase, .step = timing.step, .sequences = timing.sequences, .since = Clock::now()};
}

StepLog::Timer::~Timer() {
  const std::lock_guard lock(log_.mutex_);
  timing_.phases[static_cast<size_t>(phase_)] += Clock::now() - log_.activity_->since;
  log_.activity_.reset();
}

void StepLog::Add(const StepTiming& timing) {
  const std::lock_guard lock(mutex_);
  if (recent_.size() == capacity_) recent_.pop_front();
  recent_.push_back(timing);
}

std::vector<StepTiming> StepLog::Recent() const {
  const std::lock_guard lock(mutex_);
  return {recent_.begin(), recent_.end()};
}

std::optional<std::string> StepLog::StuckFor(std::chrono::milliseconds limit) const {
  const std::lock_guard lock(mutex_);
  if (!activity_) return std::nullopt;
  const Clock::duration time = Clock::now() - activity_->since;
  if (time <= limit) return std::nullopt;
  return fmt::format("the engine has been {} for {:.1f} s",
                     Describe(activity_->phase, activity_->step, activity_->sequences),
                     std::chrono::duration<double>(time).count());
}

}  // namespace sluice
