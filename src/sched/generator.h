#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/executor.h"
#include "request/request.h"
#include "sched/step_log.h"

namespace sluice {

// Called once for each report; must not block or throw, may call Submit, Abort and AbortSequence.
// After a report with `finish` for each of the request's n sequences there are no more.
using OutputCallback = std::function<void(Output)>;

struct EngineStats {
  int running = 0;             // sequences in the batch
  int waiting = 0;             // sequences not yet admitted
  int64_t waiting_tokens = 0;  // of the prompts of those that have no token yet
  int pages_total = 0;
  int pages_used = 0;  // held by sequences; those that are only cached are not
  uint64_t steps = 0;
  uint64_t prompt_tokens = 0;
  uint64_t generation_tokens = 0;
  uint64_t preemptions = 0;
  uint64_t steps_put_off = 0;      // in which prompts waited to begin together
  uint64_t pages_swapped_out = 0;  // by preemptions, to the host's memory
  uint64_t pages_swapped_in = 0;
  uint64_t prompt_tokens_cached = 0;  // of prompt_tokens, those that needed no computing
  // Tokens that were looked up in the prefix cache when their sequence first ran, and those found.
  uint64_t prefix_queries = 0;
  uint64_t prefix_hits = 0;
  uint64_t prefix_evictions = 0;  // pages
  std::string failure;            // not empty: requests are refused, because of this
  bool restarting = false;        // with `failure`: it may pass by itself, soon
};

// The engine as doors see it: requests go in, reports come out. Thread-safe.
class Generator {
 public:
  virtual ~Generator() = default;

  // What Submit throws now of any request, however small: a door refuses by this before it parses
  // and tokenises. Takes a microsecond.
  virtual std::optional<Error> Refusal() const = 0;

  // Queues a request. Throws Error(kInvalidArgument) for what can never run (prompt longer than the
  // context, parameters out of range, token ids outside the vocabulary), kResourceExhausted where
  // as much waits as may, kUnavailable when stopped or while there is a Stats().failure. Reports
  // are called through `executor`, those of one step together; null = on the engine's thread.
  virtual RequestId Submit(Request request, OutputCallback callback,
                           std::shared_ptr<Executor> executor) = 0;
  RequestId Submit(Request request, OutputCallback callback) {
    return Submit(std::move(request), std::move(callback), nullptr);
  }

  // Ends a request's sequences and frees their pages; each still running is reported with kAbort.
  // Unknown or finished ids are ignored.
  virtual void Abort(RequestId request) = 0;

  // Ends one of a request's n sequences because a stop string was found in its text; reported with
  // kStop if it was still running. Tokens already on their way may be reported before that.
  virtual void AbortSequence(RequestId request, int index) = 0;

  virtual EngineStats Stats() const = 0;

  // How long the last steps took, oldest first.
  virtual std::vector<StepTiming> RecentSteps() const = 0;
};

}  // namespace sluice
