#pragma once

#include "request/step.h"

namespace sluice {

// What a scheduler must know of the machine that runs its plans.
struct WorkerInfo {
  int vocab_size = 0;
  int max_model_len = 0;  // positions a sequence may have
  int page_size = 0;      // positions a KV page
  int num_pages = 0;
};

// Runs steps. One caller thread. A sequence whose logits cannot be sampled is reported in its
// SliceResult::error. A failure inside a step is reported in StepResult::error and
// leaves the worker usable, unless StepResult::worker_lost says that its device is gone.
class Worker {
 public:
  virtual ~Worker() = default;
  virtual WorkerInfo Info() const = 0;
  virtual StepResult Execute(const StepPlan& plan) = 0;
};

}  // namespace sluice
