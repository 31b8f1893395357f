#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "engine/worker.h"
#include "engine/worker_channel.h"

namespace sluice {

// A Worker in a process of its own, a child of this one, which can be lost and started again. The
// child runs ServeWorker. Info() may be asked from any thread, and process().
class WorkerProcess : public Worker {
 public:
  struct Options {
    // The program and its arguments; the numbers of the channel's socket and memory are added.
    std::vector<std::string> command;
    // Tells a new process what to load, in one message. It is to have the Info of the worker that
    // it replaces; null for the first.
    std::function<void(WorkerChannel& channel, const WorkerInfo* replaced)> order;
  };

  // Starts the process and waits until it has loaded. Throws the Error that loading threw there,
  // Error(kInternal) when the process cannot be started or dies.
  explicit WorkerProcess(Options options);
  // Ends the process.
  ~WorkerProcess() override;

  WorkerInfo Info() const override { return info_; }
  void Submit(const StepPlan& plan) override;
  StepResult Collect() override;
  bool Ready() override;
  std::string Failure() override;
  bool Restart(const std::stop_token& stop) override;

  pid_t process() const { return process_; }

 private:
  struct Step {
    uint64_t step = 0;
    std::string error;  // not empty: it was not sent, because of this
  };
  void Start(const std::stop_token& stop);
  // Ends the process, where there is one, and says how it ended. It has `grace` to end by itself.
  std::string End(std::chrono::milliseconds grace);

  const Options options_;
  WorkerInfo info_;
  std::optional<WorkerChannel> channel_;  // none: there is no process
  std::atomic<pid_t> process_ = 0;
  std::deque<Step> under_way_;  // oldest first
};

// The worker process's side. Takes the order from `channel`, lets `load` make a worker by it, and
// runs plans, submitting each to the worker as soon as this has room for it, until the server is
// gone or the worker is lost. An Error that `load` throws is the server's to report. Returns the
// process's exit code. Throws Error(kDataLoss) for a damaged plan. The process dies with the thread
// that started it.
int ServeWorker(WorkerChannel channel,
                const std::function<std::unique_ptr<Worker>(WorkerChannel& channel)>& load);

}  // namespace sluice
