#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "base/executor.h"
#include "sched/generator.h"

namespace sluice {

// Who gets a request's reports, and where: null = at once, on the engine's thread.
struct OutputReceiver {
  std::shared_ptr<const OutputCallback> callback;
  std::shared_ptr<Executor> executor;
};

// Reports on their way to other threads. Those of a step go to each thread together: it is woken
// once, and the engine's thread neither waits for it nor makes a function for each of them.
class Outbox {
 public:
  // Keeps the report until Flush; hands it over at once where it goes to no other thread, and
  // throws what that throws.
  void Put(const OutputReceiver& receiver, Output output);
  void Flush();

 private:
  using Callback = std::shared_ptr<const OutputCallback>;
  using Batch = std::vector<std::pair<Callback, Output>>;

  std::vector<std::pair<std::shared_ptr<Executor>, Batch>> batches_;  // a few
};

}  // namespace sluice
