#pragma once

#include <deque>
#include <utility>

#include "base/check.h"
#include "engine/worker.h"

namespace sluice {

// What workers of tests have in common: a step runs when it is collected, so that several can be
// under way on a machine without a device.
class DeferringWorker : public Worker {
 public:
  void Submit(const StepPlan& plan) final {
    SLUICE_CHECK_LT(static_cast<int>(plans_.size()), Info().max_steps);
    plans_.push_back(plan);
  }

  StepResult Collect() final {
    SLUICE_CHECK(!plans_.empty());
    StepPlan plan = std::move(plans_.front());
    plans_.pop_front();
    for (SequenceSlice& slice : plan.slices) {
      for (TokenId& token : slice.tokens) token = Known(token);
    }
    last_ = {};
    last_ = Run(plan);
    return last_;
  }

 protected:
  // A step with no other under way, all of whose tokens are known. What it throws, Collect does.
  virtual StepResult Run(const StepPlan& plan) = 0;

 private:
  TokenId Known(TokenId token) const {
    if (IsKnown(token)) return token;
    if (last_.slices.empty()) return 0;  // the step before failed
    return last_.slices.at(SliceThatDraws(token)).samples.back().token;
  }

  std::deque<StepPlan> plans_;  // under way, oldest first
  StepResult last_;             // of the step before; empty where it failed
};

}  // namespace sluice
