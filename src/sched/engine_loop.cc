#include "sched/engine_loop.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <random>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "sampling/random.h"

namespace sluice {

namespace {

// How often an idle loop looks after its worker.
constexpr std::chrono::milliseconds kIdleLook{500};
// How often the watchdog looks, between these: a quarter of the timeout.
constexpr std::chrono::milliseconds kLeastWatchPeriod{5};
constexpr std::chrono::milliseconds kMostWatchPeriod{1000};

SchedulerConfig MakeConfig(const WorkerInfo& info, const EngineOptions& options) {
  return {.max_num_seqs = options.max_num_seqs,
          .max_num_batched_tokens = options.max_num_batched_tokens,
          .max_model_len = info.max_model_len,
          .page_size = info.page_size,
          .num_pages = info.num_pages,
          .num_host_pages = info.num_host_pages,
          .swap_seconds_per_page = info.swap_seconds_per_page,
          .prefill_layer_groups = info.prefill_layer_groups,
          .eos_ids = options.eos_ids,
          .enable_prefix_caching = options.enable_prefix_caching};
}

uint64_t DrawSeedBase() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

void CheckPrompt(const std::vector<TokenId>& prompt, int vocab_size) {
  for (size_t i = 0; i < prompt.size(); ++i) {
    if (prompt[i] >= 0 && prompt[i] < vocab_size) continue;
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("token {} of the prompt is {}, but the vocabulary has ids 0 to {}", i,
                            prompt[i], vocab_size - 1));
  }
}

}  // namespace

EngineLoop::EngineLoop(Worker& worker, std::unique_ptr<DecodeStrategy> strategy,
                       const EngineOptions& options, Metrics* metrics)
    : worker_(worker),
      info_(worker.Info()),
      strategy_(std::move(strategy)),
      timeline_(options.timeline),
      request_timeout_(options.request_timeout),
      queue_timeout_(options.queue_timeout),
      step_timeout_(options.step_timeout),
      admission_(options.queue),
      scheduler_(MakeConfig(info_, options), *strategy_),
      seed_base_(DrawSeedBase()),
      restarts_(options.restarts),
      stats_(scheduler_.Stats()) {
  if (metrics) {
    metrics_.emplace(*metrics, options.metric_labels);
    metrics_->SetGauges(stats_);
  }
  thread_ = std::thread([this] { Run(); });
  if (step_timeout_.count() > 0) watchdog_ = std::thread([this] { WatchSteps(); });
}

EngineLoop::~EngineLoop() {
  Stop();
}

void EngineLoop::Stop() {
  RequestStop();
  Join();
}

bool EngineLoop::StopWithin(std::chrono::milliseconds most) {
  RequestStop();
  {
    std::unique_lock lock(mutex_);
    if (!end_.wait_for(lock, most, [this] { return ended_; })) return false;
  }
  Join();
  return true;
}

void EngineLoop::RequestStop() {
  {
    const std::lock_guard lock(mutex_);
    stop_.request_stop();
  }
  wake_.notify_one();
  watch_.notify_one();
}

void EngineLoop::Join() {
  const std::lock_guard lock(join_mutex_);
  if (thread_.joinable()) thread_.join();
  if (watchdog_.joinable()) watchdog_.join();
}

// With the mutex held.
std::optional<Error> EngineLoop::Unavailable() const {
  if (stop_.stop_requested()) return Error(ErrorCode::kUnavailable, "the engine has stopped");
  if (!failure_.empty()) return Error(ErrorCode::kUnavailable, failure_);
  if (const std::string stuck = StuckReason(); !stuck.empty()) {
    return Error(ErrorCode::kUnavailable, stuck);
  }
  return std::nullopt;
}

// Empty where the engine gets on.
std::string EngineLoop::StuckReason() const {
  if (step_timeout_.count() == 0) return "";
  return steps_.StuckFor(step_timeout_).value_or("");
}

// Says so when the engine gets stuck, and when it gets on again. What doors are told they ask.
void EngineLoop::WatchSteps() {
  const auto period =
      std::clamp<std::chrono::milliseconds>(step_timeout_ / 4, kLeastWatchPeriod, kMostWatchPeriod);
  bool was_stuck = false;
  std::unique_lock lock(mutex_);
  while (!watch_.wait_for(lock, period, [this] { return stop_.stop_requested(); })) {
    const std::string stuck = StuckReason();
    if (!stuck.empty() && !was_stuck) spdlog::error("{}", stuck);
    if (stuck.empty() && was_stuck) spdlog::info("the engine gets on again");
    was_stuck = !stuck.empty();
  }
}

std::optional<Error> EngineLoop::Refusal() const {
  {
    const std::lock_guard lock(mutex_);
    if (std::optional<Error> unavailable = Unavailable()) return unavailable;
  }
  return admission_.Full();
}

RequestId EngineLoop::Submit(Request request, OutputCallback callback,
                             std::shared_ptr<Executor> executor) {
  Validate(request.sampling, info_.vocab_size);
  CheckPrompt(request.prompt, info_.vocab_size);
  scheduler_.CheckFits(request);
  RequestId id = 0;
  {
    const std::lock_guard lock(mutex_);
    if (const std::optional<Error> unavailable = Unavailable()) throw *unavailable;
    std::vector<Admission::Place> places =
        admission_.Enter(request.sampling.n, static_cast<int>(request.prompt.size()));
    id = next_id_++;
    commands_.push_back({.kind = Command::Kind::kSubmit,
                         .id = id,
                         .request = std::move(request),
                         .receiver = {std::make_shared<const OutputCallback>(std::move(callback)),
                                      std::move(executor)},
                         .submitted = EngineClock::now(),
                         .places = std::move(places)});
  }
  wake_.notify_one();
  return id;
}

void EngineLoop::Abort(RequestId request) {
  Enqueue({.kind = Command::Kind::kAbort, .id = request});
}

void EngineLoop::AbortSequence(RequestId request, int index) {
  Enqueue({.kind = Command::Kind::kAbortSequence, .id = request, .index = index});
}

void EngineLoop::Enqueue(Command command) {
  {
    const std::lock_guard lock(mutex_);
    if (stop_.stop_requested()) return;  // everything ends anyway
    commands_.push_back(std::move(command));
  }
  wake_.notify_one();
}

EngineStats EngineLoop::Stats() const {
  const std::lock_guard lock(mutex_);
  EngineStats stats = stats_;
  stats.waiting_tokens = admission_.waiting_tokens();
  const std::string stuck = StuckReason();
  stats.failure = failure_.empty() ? stuck : failure_;
  stats.restarting = restarting_ || (failure_.empty() && !stuck.empty());
  for (const Command& command : commands_) {
    if (command.kind == Command::Kind::kSubmit) stats.waiting += command.request.sampling.n;
  }
  return stats;
}

void EngineLoop::Run() {
  if (timeline_ != nullptr) timeline_->NameThread("engine");
  while (auto commands = TakeCommands()) {
    for (Command& command : *commands) Obey(std::move(command));
    EndOverdue();
    EndUnbegun();
    if (busy()) {
      RunStep();
    } else {
      PublishStats();
      CheckWorker();
    }
  }
  EndEverything();
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  end_.notify_all();
}

// Waits a while for commands when there is nothing to run; none when the loop is to stop.
std::optional<std::vector<EngineLoop::Command>> EngineLoop::TakeCommands() {
  std::unique_lock lock(mutex_);
  wake_.wait_for(lock, kIdleLook,
                 [this] { return stop_.stop_requested() || !commands_.empty() || busy(); });
  if (stop_.stop_requested()) return std::nullopt;
  return std::exchange(commands_, {});
}

void EngineLoop::Obey(Command command) {
  switch (command.kind) {
    case Command::Kind::kSubmit:
      return Start(std::move(command));
    case Command::Kind::kAbort:
      return Deliver(scheduler_.End(command.id, FinishReason::kAbort));
    case Command::Kind::kAbortSequence:
      return Deliver(scheduler_.EndSequence(command.id, command.index, FinishReason::kStop));
  }
}

void EngineLoop::Start(Command command) {
  if (!lost_by_.empty()) {
    // Queued before the worker was lost.
    const std::string failure = Stats().failure;
    for (int i = 0; i < command.request.sampling.n; ++i) {
      outbox_.Put(command.receiver, {.index = i,
                                     .tokens = {},
                                     .prompt = {},
                                     .finish = FinishReason::kError,
                                     .error = failure});
    }
    return outbox_.Flush();
  }
  const SamplingParams& sampling = command.request.sampling;
  if (metrics_) metrics_->OnSubmit(command.request);
  SequenceTimes times;
  times.submitted = command.submitted;
  times.prompt_tokens = static_cast<int>(command.request.prompt.size());
  const std::optional<EngineClock::time_point> deadline = DeadlineOf(command);
  if (deadline) deadlines_.emplace(*deadline, command.id);
  if (queue_timeout_.count() > 0) {
    queue_deadlines_.emplace_back(command.submitted + queue_timeout_, command.id);
  }
  LiveRequest live{
      .receiver = std::move(command.receiver), .unfinished = sampling.n, .deadline = deadline};
  for (Admission::Place& place : command.places)
    live.sequences.push_back({times, std::move(place)});
  live_.emplace(command.id, std::move(live));
  scheduler_.Add(command.id, command.request,
                 sampling.seed.value_or(MixSeed(seed_base_, command.id)));
}

std::optional<EngineClock::time_point> EngineLoop::DeadlineOf(const Command& command) const {
  std::optional<std::chrono::milliseconds> timeout = command.request.timeout;
  if (request_timeout_.count() > 0) {
    timeout = std::min(timeout.value_or(request_timeout_), request_timeout_);
  }
  if (!timeout) return std::nullopt;
  return command.submitted + *timeout;
}

// Ends the requests whose time is over.
void EngineLoop::EndOverdue() {
  const EngineClock::time_point now = EngineClock::now();
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    const auto [deadline, request] = *deadlines_.begin();
    deadlines_.erase(deadlines_.begin());
    int tokens = 0;
    const LiveRequest& live = live_.at(request);
    for (const LiveSequence& sequence : live.sequences) tokens += sequence.times.generated;
    const std::chrono::duration<double> timeout = deadline - live.sequences.front().times.submitted;
    Deliver(scheduler_.End(
        request, FinishReason::kTimeout,
        fmt::format("the request took longer than its timeout of {:g} s, in which it got {} tokens",
                    timeout.count(), tokens)));
  }
}

// Ends the requests that have waited too long for their first step.
void EngineLoop::EndUnbegun() {
  const EngineClock::time_point now = EngineClock::now();
  while (!queue_deadlines_.empty() && queue_deadlines_.front().first <= now) {
    const RequestId request = queue_deadlines_.front().second;
    queue_deadlines_.pop_front();
    const auto it = live_.find(request);
    if (it == live_.end()) continue;
    const auto& sequences = it->second.sequences;
    const bool begun = std::any_of(sequences.begin(), sequences.end(), [](const auto& sequence) {
      return sequence.times.admitted.has_value();
    });
    if (begun) continue;
    const std::chrono::duration<double> timeout = queue_timeout_;
    Deliver(scheduler_.End(
        request, FinishReason::kTimeout,
        fmt::format("the server is overloaded: the request has waited for {:g} s; try again later",
                    timeout.count())));
  }
}

// Keeps the worker supplied with steps, and finishes the oldest.
void EngineLoop::RunStep() {
  try {
    while (std::ssize(under_way_) < info_.max_steps && SubmitStep()) {
    }
  } catch (const std::exception& error) {
    EndByDefect(error);
  }
  PublishStats();  // who has a place now: the step may take long
  if (!under_way_.empty()) FinishStep();
  if (!lost_by_.empty() && under_way_.empty()) RestartWorker();
}

// False where no step can be planned yet.
bool EngineLoop::SubmitStep() {
  Step step;
  {
    const StepLog::Timer timer(steps_, StepPhase::kPlan, step.timing);
    step.plan = Plan();
  }
  if (step.plan.slices.empty()) return false;
  step.timing.Describe(step.plan);
  const EngineClock::time_point now = EngineClock::now();
  if (under_way_.empty()) step_began_ = now;
  under_way_.push_back(std::move(step));
  {
    const StepLog::Timer timer(steps_, StepPhase::kSubmit, under_way_.back().timing);
    worker_.Submit(under_way_.back().plan);
  }
  for (const auto& admission : scheduler_.admitted()) {
    LiveSequence& sequence = live_.at(admission.request).sequences[admission.index];
    sequence.times.admitted = now;
    sequence.place.OnTakenUp();
    if (metrics_) metrics_->OnAdmitted(sequence.times);
  }
  return true;
}

void EngineLoop::FinishStep() {
  Step step = std::move(under_way_.front());
  under_way_.pop_front();
  const StepResult result = Collect(step);
  step.timing.failed = !result.error.empty();
  const EngineClock::time_point now = EngineClock::now();
  const std::chrono::duration<double> taken = now - std::exchange(step_began_, now);
  if (result.error.empty()) scheduler_.ObserveStep(step.plan, taken.count());
  std::vector<SequenceReport> reports;
  try {
    const StepLog::Timer timer(steps_, StepPhase::kCommit, step.timing);
    reports = Commit(step.plan, result);
  } catch (const std::exception& error) {
    EndByDefect(error);
  }
  if (result.worker_lost && lost_by_.empty()) {
    for (SequenceReport& report : LoseWorker(result.error)) reports.push_back(std::move(report));
  }
  if (metrics_) {
    const EngineStats stats = scheduler_.Stats();
    metrics_->OnStep(static_cast<int>(step.plan.NumWholeTokens()), std::exchange(counted_, stats),
                     stats);
  }
  {
    const StepLog::Timer timer(steps_, StepPhase::kReport, step.timing);
    Deliver(std::move(reports));
  }
  steps_.Add(step.timing);
}

// A defect in planning or committing: what the scheduler holds cannot be trusted any more.
void EngineLoop::EndByDefect(const std::exception& error) {
  spdlog::error("a step could not be scheduled, ending all requests: {}", error.what());
  std::vector<SequenceReport> reports = scheduler_.EndAll(FinishReason::kError, error.what());
  scheduler_.ForgetPages();
  Deliver(std::move(reports));
}

StepPlan EngineLoop::Plan() {
  TimelineSpan span(timeline_, "schedule");
  StepPlan plan = scheduler_.Plan();
  if (timeline_ != nullptr) span.Describe(FactsOf(plan));
  return plan;
}

std::vector<SequenceReport> EngineLoop::Commit(const StepPlan& plan, const StepResult& result) {
  TimelineSpan span(timeline_, "commit");
  if (timeline_ != nullptr) span.Describe(FactsOf(plan));
  return scheduler_.Commit(plan, result);
}

// With no step under way: notices a worker that is gone before a request does.
void EngineLoop::CheckWorker() {
  if (!lost_by_.empty()) return;
  const std::string reason = worker_.Failure();
  if (reason.empty()) return;
  spdlog::error("{}", reason);
  Deliver(LoseWorker(reason));
  RestartWorker();
}

// Ends every sequence, and with them all that was known of the worker's pages.
std::vector<SequenceReport> EngineLoop::LoseWorker(const std::string& reason) {
  lost_by_ = reason;
  SetFailure("the engine has lost its worker and starts it again: " + reason, true);
  std::vector<SequenceReport> reports = scheduler_.EndAll(FinishReason::kError, reason);
  scheduler_.ForgetPages();
  return reports;
}

// Tries until the worker runs, the tries are used up or the loop is to stop.
void EngineLoop::RestartWorker() {
  std::string reason = lost_by_;
  while (const auto pause = restarts_.Take(EngineClock::now())) {
    if (!Pause(*pause)) return;
    try {
      if (!worker_.Restart(stop_.get_token())) {
        return SetFailure("the engine has lost its worker: " + reason, false);
      }
      spdlog::info("the worker runs again");
      if (metrics_) metrics_->OnRestart();
      lost_by_.clear();
      return SetFailure("", false);
    } catch (const std::exception& error) {
      if (stop_.stop_requested()) return;
      reason = error.what();
      spdlog::error("the worker could not be started again: {}", reason);
      SetFailure("the engine has lost its worker and could not start it again yet: " + reason,
                 true);
    }
  }
  const std::string failure =
      "the engine has lost its worker too often to start it again, which takes a new server: " +
      reason;
  spdlog::error("{}", failure);
  SetFailure(failure, false);
}

// False when the loop is to stop.
bool EngineLoop::Pause(std::chrono::milliseconds time) {
  std::unique_lock lock(mutex_);
  return !wake_.wait_for(lock, time, [this] { return stop_.stop_requested(); });
}

void EngineLoop::SetFailure(const std::string& failure, bool restarting) {
  const std::lock_guard lock(mutex_);
  failure_ = failure;
  restarting_ = restarting;
}

StepResult EngineLoop::Collect(Step& step) {
  StepResult result;
  try {
    const StepLog::Timer timer(steps_, StepPhase::kCollect, step.timing);
    result = worker_.Collect();
  } catch (const std::exception& error) {
    result = {.step = step.plan.step, .slices = {}, .error = error.what()};
  }
  if (!result.error.empty()) {
    spdlog::error("step {} with {} sequences failed: {}", step.plan.step, step.plan.slices.size(),
                  result.error);
  }
  return result;
}

void EngineLoop::Deliver(std::vector<SequenceReport> reports) {
  const TimelineSpan span(timeline_, "report");
  // First, so that whoever gets a last report finds the pages free and the counts complete.
  PublishStats();
  for (SequenceReport& report : reports) {
    const auto it = live_.find(report.request);
    if (it == live_.end()) continue;  // ended by a failed callback among these reports
    const bool delivered = Report(it->second, std::move(report.output));
    if (it->second.unfinished == 0) {
      Retire(report.request);
    } else if (!delivered) {
      Retire(report.request);
      scheduler_.End(report.request, FinishReason::kAbort);
      PublishStats();
    }
  }
  outbox_.Flush();
}

void EngineLoop::Retire(RequestId request) {
  const auto it = live_.find(request);
  if (it->second.deadline) deadlines_.erase({*it->second.deadline, request});
  live_.erase(it);
}

// Counts one report and puts it on its way; false if the callback threw.
bool EngineLoop::Report(LiveRequest& live, Output output) {
  const EngineClock::time_point now = EngineClock::now();
  auto& [times, place] = live.sequences[output.index];
  const int tokens = static_cast<int>(output.tokens.size());
  if (tokens > 0) {
    place.OnPrefilled();
    if (metrics_) metrics_->OnTokens(tokens, now, times);
    if (!times.first_token) times.first_token = now;
    times.last_token = now;
    times.generated += tokens;
  }
  if (output.finish) {
    if (metrics_) metrics_->OnFinish(*output.finish, now, times);
    place.Leave();
    --live.unfinished;
  }
  try {
    outbox_.Put(live.receiver, std::move(output));
  } catch (const std::exception& error) {
    spdlog::error("a request's callback threw, ending the request: {}", error.what());
    return false;
  }
  return true;
}

void EngineLoop::PublishStats() {
  EngineStats stats = scheduler_.Stats();
  stats.waiting_tokens = admission_.waiting_tokens();
  if (metrics_) metrics_->SetGauges(stats);
  const std::lock_guard lock(mutex_);
  stats_ = stats;
}

void EngineLoop::EndEverything() {
  std::vector<Command> commands;
  {
    const std::lock_guard lock(mutex_);
    commands = std::exchange(commands_, {});
  }
  while (!under_way_.empty()) FinishStep();
  for (Command& command : commands) Obey(std::move(command));
  Deliver(scheduler_.EndAll(FinishReason::kAbort, ""));
}

}  // namespace sluice
