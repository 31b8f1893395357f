#pragma once

#include <stop_token>
#include <string>
#include <tuple>

#include "request/step.h"

namespace sluice {

// What a scheduler must know of the machine that runs its plans.
struct WorkerInfo {
  int vocab_size = 0;
  int max_model_len = 0;  // positions a sequence may have
  int page_size = 0;      // positions a KV page
  int num_pages = 0;
  int num_host_pages = 0;            // for what is swapped out; 0 = nothing can be
  double swap_seconds_per_page = 0;  // that a copy to or from one takes
  // Steps that may be under way at once: 1, or 2 where a step can be queued behind the one that
  // runs, with tokens that this one draws (TokenDrawnBy).
  int max_steps = 1;
  // Steps in which a prompt's rows go through the layers (LayerGroup) while others decode: 1, or
  // more where a step waits for what each layer brings.
  int prefill_layer_groups = 1;

  // But for what is measured.
  bool operator==(const WorkerInfo& other) const {
    return std::tie(vocab_size, max_model_len, page_size, num_pages, num_host_pages, max_steps,
                    prefill_layer_groups) ==
           std::tie(other.vocab_size, other.max_model_len, other.page_size, other.num_pages,
                    other.num_host_pages, other.max_steps, other.prefill_layer_groups);
  }
};

// Runs steps, in the order in which they are submitted. One caller thread. A sequence whose logits
// cannot be sampled is reported in its SliceResult::error. A failure inside a step is reported in
// StepResult::error and leaves the worker usable, unless StepResult::worker_lost says that its
// device or process is gone, and with it every step under way.
class Worker {
 public:
  virtual ~Worker() = default;
  virtual WorkerInfo Info() const = 0;

  // Takes a step, at most Info().max_steps with those under way. `plan` is not read later.
  virtual void Submit(const StepPlan& plan) = 0;
  // Waits for the oldest step under way and returns its result.
  virtual StepResult Collect() = 0;
  // Whether Collect would not wait.
  virtual bool Ready() { return true; }

  // One step from beginning to end, with none under way.
  StepResult Execute(const StepPlan& plan) {
    Submit(plan);
    return Collect();
  }

  // What the worker was lost by between steps; empty while it can run.
  virtual std::string Failure() { return ""; }
  // Starts a lost worker again, with the same Info and nothing in its KV pages. Waits until it can
  // run steps. Returns false where that takes another server; throws Error when the try failed, or
  // `stop` was asked for.
  virtual bool Restart(const std::stop_token& /*stop*/) { return false; }
};

}  // namespace sluice
