#include "engine/worker_process.h"

#include <signal.h>
#include <spawn.h>
#include <spdlog/spdlog.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <system_error>
#include <thread>
#include <tuple>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "request/step_wire.h"

namespace sluice {

constexpr ErrorCode LastOf(ErrorCode) {
  return ErrorCode::kInternal;
}

inline auto Fields(WorkerInfo& value) {
  auto& [vocab_size, max_model_len, page_size, num_pages, num_host_pages, swap_seconds_per_page,
         max_steps, prefill_layer_groups] = value;
  return std::tie(vocab_size, max_model_len, page_size, num_pages, num_host_pages,
                  swap_seconds_per_page, max_steps, prefill_layer_groups);
}

namespace {

using std::chrono::milliseconds;

// How long a process that is ending may take to do so before it is killed.
constexpr milliseconds kEndGrace{2000};
// How often a wait looks whether it should go on.
constexpr milliseconds kLook{100};

// The worker's first message: what loading came to.
struct Loaded {
  WorkerInfo info;
  ErrorCode code = ErrorCode::kInternal;
  std::string error;  // not empty: it failed
};

auto Fields(Loaded& value) {
  auto& [info, code, error] = value;
  return std::tie(info, code, error);
}

std::string DescribeEnd(pid_t process, int status) {
  const std::string who = "the worker process " + std::to_string(process);
  if (WIFEXITED(status)) return who + " exited with code " + std::to_string(WEXITSTATUS(status));
  const int signal = WTERMSIG(status);
  const char* name = sigdescr_np(signal);
  std::string text = who + " was ended by signal " + std::to_string(signal);
  if (name != nullptr) text += std::string(" (") + name + ")";
  // The kernel's log says so, this process is not told.
  if (signal == SIGKILL) text += ", as the system does where memory runs out";
  return text;
}

// A child that inherits the channel's end and, of what else is open here, standard input and
// outputs. Fork alone would be unsound with this process's threads.
pid_t Spawn(std::vector<std::string> command, const ChannelEnd& end) {
  command.push_back(std::to_string(end.socket.number()));
  command.push_back(std::to_string(end.memory.number()));
  std::vector<char*> arguments;
  for (std::string& argument : command) arguments.push_back(argument.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  for (const int number : {end.socket.number(), end.memory.number()}) {
    posix_spawn_file_actions_adddup2(&actions, number, number);  // stays open on exec
  }
  pid_t process = 0;
  const int error =
      posix_spawn(&process, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    throw Error(ErrorCode::kInternal, "cannot start the worker process '" + command[0] +
                                          "': " + std::system_category().message(error));
  }
  return process;
}

}  // namespace

WorkerProcess::WorkerProcess(Options options) : options_(std::move(options)) {
  Start({});
}

WorkerProcess::~WorkerProcess() {
  End(milliseconds(0));
}

void WorkerProcess::Start(const std::stop_token& stop) {
  {
    ChannelEnd worker;
    channel_.emplace(worker);
    process_ = Spawn(options_.command, worker);
  }  // The worker alone holds its end now: that closes when it dies.
  spdlog::info("the worker is process {}", process_.load());
  Loaded loaded;
  try {
    options_.order(*channel_, info_ == WorkerInfo() ? nullptr : &info_);
    while (!channel_->Await(kLook)) {
      if (stop.stop_requested()) throw Error(ErrorCode::kUnavailable, "the server is stopping");
    }
    loaded = channel_->Receive<Loaded>();
    if (!loaded.error.empty()) throw Error(loaded.code, loaded.error);
  } catch (const Error& error) {
    const bool died = error.code() == ErrorCode::kUnavailable && !stop.stop_requested();
    const std::string end = End(died ? kEndGrace : milliseconds(0));
    if (died) throw Error(ErrorCode::kInternal, end + " before it had loaded the model");
    throw;
  }
  if (info_ != WorkerInfo() && loaded.info != info_) {
    End(milliseconds(0));
    throw Error(ErrorCode::kInternal,
                "the worker that was started again is not as it was: its "
                "model or its configuration has changed");
  }
  info_ = loaded.info;
}

void WorkerProcess::Submit(const StepPlan& plan) {
  Step& step = under_way_.emplace_back(Step{.step = plan.step, .error = {}});
  if (!channel_.has_value()) return;
  try {
    channel_->Send(plan);
  } catch (const Error& error) {
    // A process that is gone is seen where its results are missed: it may have sent some.
    if (error.code() == ErrorCode::kResourceExhausted) step.error = error.what();
  }
}

StepResult WorkerProcess::Collect() {
  SLUICE_CHECK(!under_way_.empty());
  const Step step = std::move(under_way_.front());
  under_way_.pop_front();
  if (!step.error.empty()) return {.step = step.step, .slices = {}, .error = step.error};
  StepResult lost{.step = step.step, .slices = {}, .error = {}, .worker_lost = true};
  if (!channel_.has_value()) {
    lost.error = "there is no worker process";
    return lost;
  }
  try {
    return channel_->Receive<StepResult>();
  } catch (const Error& error) {
    const bool died = error.code() == ErrorCode::kUnavailable;
    const std::string end = End(died ? kEndGrace : milliseconds(0));
    lost.error = "step " + std::to_string(step.step) + ": " + (died ? end : error.what());
    return lost;
  }
}

bool WorkerProcess::Ready() {
  SLUICE_CHECK(!under_way_.empty());
  return !under_way_.front().error.empty() || !channel_.has_value() ||
         channel_->Await(milliseconds(0));
}

std::string WorkerProcess::Failure() {
  if (!channel_.has_value()) return "there is no worker process";
  return channel_->HungUp() ? End(kEndGrace) : "";
}

bool WorkerProcess::Restart(const std::stop_token& stop) {
  SLUICE_CHECK(under_way_.empty());
  End(milliseconds(0));
  Start(stop);
  return true;
}

std::string WorkerProcess::End(milliseconds grace) {
  channel_.reset();
  const pid_t process = process_.exchange(0);
  if (process == 0) return "there is no worker process";
  int status = 0;
  const auto deadline = std::chrono::steady_clock::now() + grace;
  while (waitpid(process, &status, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() >= deadline) kill(process, SIGKILL);
    std::this_thread::sleep_for(milliseconds(1));
  }
  return DescribeEnd(process, status);
}

namespace {

// Runs the server's plans until the worker is lost. Neither side waits for the other in vain: the
// server waits for a result only while it has sent a plan for it, and this side for a plan only
// while it owes no result.
void RunPlans(WorkerChannel& channel, Worker& worker) {
  const int most = worker.Info().max_steps;
  StepPlan plan;  // one for all steps, for its memory
  int under_way = 0;
  for (bool lost = false; !lost;) {
    if (under_way == 0 || (under_way < most && channel.Await(milliseconds(0)))) {
      channel.Receive(plan);
      worker.Submit(plan);
      ++under_way;
    } else if (under_way == most || worker.Ready()) {
      const StepResult result = worker.Collect();
      --under_way;
      lost = result.worker_lost;
      channel.Send(result);
    }
  }
}

}  // namespace

int ServeWorker(WorkerChannel channel,
                const std::function<std::unique_ptr<Worker>(WorkerChannel& channel)>& load) {
  prctl(PR_SET_NAME, "sluice-worker");
  // While it loads or runs a step it would not see that the server is gone.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (channel.HungUp()) return 1;  // the server died before that call
  std::unique_ptr<Worker> worker;
  try {
    worker = load(channel);
  } catch (const Error& error) {
    channel.Send(Loaded{.info = {}, .code = error.code(), .error = error.what()});
    return 1;
  }
  channel.Send(Loaded{.info = worker->Info(), .code = {}, .error = {}});
  try {
    RunPlans(channel, *worker);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUnavailable) throw;
    return 0;  // the server ended
  }
  return 1;
}

}  // namespace sluice
