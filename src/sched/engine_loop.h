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
#include "sched/engine_metrics.h"
#include "sched/generator.h"
#include "sched/restart_budget.h"
#include "sched/scheduler.h"

namespace sluice {

struct EngineOptions {
  int max_num_seqs = 64;
  int max_num_batched_tokens = 2048;
  std::vector<TokenId> eos_ids;  // end a sequence unless ignore_eos
  // The longest that a request may take, whatever timeout it has of its own; 0 = without bound.
  std::chrono::milliseconds request_timeout{0};
  Metrics::Labels metric_labels;  // on every metric, as {"model_name", "storyteller"}
  RestartLimits restarts;         // of a worker that was lost
  Timeline* timeline = nullptr;   // that scheduling is recorded on; may be null
};

// Runs requests on a worker: one thread that takes commands from a queue, plans a step, has it run,
// commits it and reports; where the worker and the scheduler allow, it plans and submits the next
// step while one runs. The thread sleeps while there is nothing to do. A step that fails
// ends the sequences in it with kError, and the loop goes on. A worker that is lost ends every
// request that way; until it has been started again, which this thread sees to, more are refused.
class EngineLoop : public Generator {
 public:
  // Starts the thread. `worker` and `metrics` (which may be null) must outlive the loop; the worker
  // is used by the loop's thread alone, except for Info() here.
  EngineLoop(Worker& worker, std::unique_ptr<DecodeStrategy> strategy, const EngineOptions& options,
             Metrics* metrics = nullptr);
  ~EngineLoop() override;

  RequestId Submit(Request request, OutputCallback callback) override;
  void Abort(RequestId request) override;
  void AbortSequence(RequestId request, int index) override;
  EngineStats Stats() const override;

  // Ends every request with kAbort, once the steps under way are over, and joins the thread. Later
  // submissions are refused. Not to be called from a callback.
  void Stop();

 private:
  struct Command {
    enum class Kind { kSubmit, kAbort, kAbortSequence } kind = Kind::kSubmit;
    RequestId id = 0;
    int index = 0;  // of kAbortSequence
    Request request;
    OutputCallback callback;
    EngineClock::time_point submitted;
  };

  // A request with sequences that are not finished.
  struct LiveRequest {
    OutputCallback callback;
    std::vector<SequenceTimes> sequences;
    int unfinished = 0;
    std::optional<EngineClock::time_point> deadline;
  };

  void Enqueue(Command command);
  void Run();
  std::optional<std::vector<Command>> TakeCommands();
  void Obey(Command command);
  void Start(Command command);
  std::optional<EngineClock::time_point> DeadlineOf(const Command& command) const;
  void EndOverdue();
  bool busy() const { return !scheduler_.idle() || !under_way_.empty(); }
  void RunStep();
  bool SubmitStep();
  void FinishStep();
  StepPlan Plan();
  StepResult Collect(const StepPlan& plan);
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

  // The engine thread's own.
  Scheduler scheduler_;
  std::deque<StepPlan> under_way_;  // oldest first
  EngineStats counted_;             // what the metrics have been told of
  std::unordered_map<RequestId, LiveRequest> live_;
  std::set<std::pair<EngineClock::time_point, RequestId>> deadlines_;  // of live requests
  const uint64_t seed_base_;                                           // of requests without a seed
  RestartBudget restarts_;
  std::string lost_by_;  // what the worker was lost by; empty while it runs

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::vector<Command> commands_;
  EngineStats stats_;
  std::string failure_;      // as in EngineStats
  bool restarting_ = false;  // likewise
  RequestId next_id_ = 1;
  std::stop_source stop_;  // asked for under the mutex

  std::mutex join_mutex_;
  std::thread thread_;
};

}  // namespace sluice
