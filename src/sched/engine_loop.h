#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <stop_token>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/metrics.h"
#include "decode/decode_strategy.h"
#include "device/timeline.h"
#include "engine/worker.h"
#include "sched/admission.h"
#include "sched/engine_metrics.h"
#include "sched/generator.h"
#include "sched/outbox.h"
#include "sched/restart_budget.h"
#include "sched/scheduler.h"
#include "sched/step_log.h"

namespace sluice {

struct EngineOptions {
  int max_num_seqs = 64;
  int max_num_batched_tokens = 2048;
  std::vector<TokenId> eos_ids;  // end a sequence unless ignore_eos
  // The longest that a request may take, whatever timeout it has of its own; 0 = without bound.
  std::chrono::milliseconds request_timeout{0};
  bool enable_prefix_caching = true;
  Metrics::Labels metric_labels;  // on every metric, as {"model_name", "storyteller"}
  RestartLimits restarts;         // of a worker that was lost
  QueueLimits queue;
  // The longest that a request may wait for its first step; 0 = without bound.
  std::chrono::milliseconds queue_timeout{0};
  // After so long in one phase of a step the engine counts as stuck, until it gets on; 0 = never.
  std::chrono::milliseconds step_timeout{0};
  Timeline* timeline = nullptr;  // that scheduling is recorded on; may be null
};

// Runs requests on a worker: one thread that takes commands from a queue, plans a step, has it run,
// commits it and reports; where the worker and the scheduler allow, it plans and submits the next
// step while one runs. The thread sleeps while there is nothing to do. A step that fails
// ends the sequences in it with kError, and the loop goes on. A worker that is lost ends every
// request that way; until it has been started again, which this thread sees to, more are refused,
// as they are while a step is stuck: a second thread logs that, and nothing else.
class EngineLoop : public Generator {
 public:
  // Starts the thread. `worker` and `metrics` (which may be null) must outlive the loop; the worker
  // is used by the loop's thread alone, except for Info() here.
  EngineLoop(Worker& worker, std::unique_ptr<DecodeStrategy> strategy, const EngineOptions& options,
             Metrics* metrics = nullptr);
  ~EngineLoop() override;

  std::optional<Error> Refusal() const override;
  using Generator::Submit;
  RequestId Submit(Request request, OutputCallback callback,
                   std::shared_ptr<Executor> executor) override;
  void Abort(RequestId request) override;
  void AbortSequence(RequestId request, int index) override;
  EngineStats Stats() const override;
  std::vector<StepTiming> RecentSteps() const override { return steps_.Recent(); }

  // Ends every request with kAbort, once the steps under way are over, and joins the thread. Later
  // submissions are refused. Not to be called from a callback.
  void Stop();
  // Likewise, where that takes so long at most. Otherwise false: a step does not end.
  bool StopWithin(std::chrono::milliseconds most);

 private:
  struct Command {
    enum class Kind { kSubmit, kAbort, kAbortSequence } kind = Kind::kSubmit;
    RequestId id = 0;
    int index = 0;  // of kAbortSequence
    Request request;
    OutputReceiver receiver;
    EngineClock::time_point submitted;
    std::vector<Admission::Place> places;  // of kSubmit: one for each sequence
  };

  struct LiveSequence {
    SequenceTimes times;
    Admission::Place place;
  };
  // A request with sequences that are not finished.
  struct LiveRequest {
    OutputReceiver receiver;
    std::vector<LiveSequence> sequences;
    int unfinished = 0;
    std::optional<EngineClock::time_point> deadline;
  };

  struct Step {
    StepPlan plan;
    StepTiming timing;
  };

  std::optional<Error> Unavailable() const;
  std::string StuckReason() const;
  void WatchSteps();
  void RequestStop();
  void Join();
  void Enqueue(Command command);
  void Run();
  std::optional<std::vector<Command>> TakeCommands();
  void Obey(Command command);
  void Start(Command command);
  std::optional<EngineClock::time_point> DeadlineOf(const Command& command) const;
  void EndOverdue();
  void EndUnbegun();
  bool busy() const { return !scheduler_.idle() || !under_way_.empty(); }
  void RunStep();
  bool SubmitStep();
  void FinishStep();
  StepPlan Plan();
  StepResult Collect(Step& step);
  std::vector<SequenceReport> Commit(const StepPlan& plan, const StepResult& result);
  void EndByDefect(const std::exception& error);
  void CheckWorker();
  std::vector<SequenceReport> LoseWorker(const std::string& reason);
  void RestartWorker();
  bool Pause(std::chrono::milliseconds time);
  void SetFailure(const std::string& failure, bool restarting);
  void Deliver(std::vector<SequenceReport> reports);
  void Retire(RequestId request);
  bool Report(LiveRequest& live, Output output);
  void PublishStats();
  void EndEverything();

  Worker& worker_;
  const WorkerInfo info_;
  const std::unique_ptr<DecodeStrategy> strategy_;
  Timeline* const timeline_;
  const std::chrono::milliseconds request_timeout_;
  std::optional<EngineMetrics> metrics_;
  const std::chrono::milliseconds queue_timeout_;
  const std::chrono::milliseconds step_timeout_;
  Admission admission_;  // outlives the places in commands and live requests
  StepLog steps_;

  // The engine thread's own.
  Scheduler scheduler_;
  std::deque<Step> under_way_;          // oldest first
  EngineClock::time_point step_began_;  // of the oldest: the one before it was over
  EngineStats counted_;                 // what the metrics have been told of
  std::unordered_map<RequestId, LiveRequest> live_;
  using Deadline = std::pair<EngineClock::time_point, RequestId>;
  std::set<Deadline> deadlines_;          // of live requests
  std::deque<Deadline> queue_deadlines_;  // ascending; of requests that may have begun or gone
  const uint64_t seed_base_;              // of requests without a seed
  RestartBudget restarts_;
  Outbox outbox_;
  std::string lost_by_;  // what the worker was lost by; empty while it runs

  mutable std::mutex mutex_;       // guards what follows
  std::condition_variable wake_;   // the engine's thread
  std::condition_variable watch_;  // the watchdog's
  std::vector<Command> commands_;
  EngineStats stats_;
  std::string failure_;      // as in EngineStats
  bool restarting_ = false;  // likewise
  RequestId next_id_ = 1;
  std::stop_source stop_;  // asked for under the mutex
  bool ended_ = false;     // the engine's thread, but for its return
  std::condition_variable end_;

  std::mutex join_mutex_;
  std::thread thread_;
  std::thread watchdog_;  // none without a timeout
};

}  // namespace sluice
