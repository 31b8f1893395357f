#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "sched/generator.h"
#include "sched/outbox.h"

namespace sluice {

// A Generator for the tests of the door: its own thread gives every live sequence one token a
// round. The tokens are a function of the prompt, the seed and the sequence's index alone, as an
// engine's are.
class FakeGenerator : public Generator {
 public:
  static constexpr TokenId kEos = 4095;
  using Script = std::function<std::vector<TokenId>(const Request&, int index)>;

  // `script` gives a sequence's tokens; when they run out before max_tokens it ends with kEos.
  explicit FakeGenerator(Script script = HashScript, std::chrono::microseconds round = {})
      : script_(std::move(script)), round_(round), thread_([this] { Run(); }) {}
  ~FakeGenerator() override {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }

  std::optional<Error> Refusal() const override {
    const std::lock_guard lock(mutex_);
    if (full_) return Error(ErrorCode::kResourceExhausted, "too many requests wait");
    return refusal_;
  }

  using Generator::Submit;
  RequestId Submit(Request request, OutputCallback callback,
                   std::shared_ptr<Executor> executor) override {
    const std::lock_guard lock(mutex_);
    if (refusal_) throw *refusal_;
    const RequestId id = next_++;
    for (int index = 0; index < request.sampling.n; ++index) {
      live_[{id, index}] = {
          .request = request,
          .tokens = script_(request, index),
          .receiver = {std::make_shared<const OutputCallback>(callback), executor}};
    }
    submitted_.push_back(request);
    wake_.notify_all();
    return id;
  }

  void Abort(RequestId request) override {
    const std::lock_guard lock(mutex_);
    aborted_.insert(request);
    std::erase_if(live_, [&](const auto& entry) { return entry.first.first == request; });
    changed_.notify_all();
  }

  void AbortSequence(RequestId request, int index) override {
    const std::lock_guard lock(mutex_);
    ended_.insert({request, index});
    live_.erase({request, index});
    changed_.notify_all();
  }

  EngineStats Stats() const override {
    const std::lock_guard lock(mutex_);
    const int running = static_cast<int>(live_.size());
    return {.running = running,
            .pages_total = 1000,
            .pages_used = running,
            .failure = lost_,
            .restarting = restarting_};
  }

  std::vector<StepTiming> RecentSteps() const override {
    const std::lock_guard lock(mutex_);
    return steps_;
  }

  // What RecentSteps gives.
  void SetSteps(std::vector<StepTiming> steps) {
    const std::lock_guard lock(mutex_);
    steps_ = std::move(steps);
  }
  // From here on no request is accepted; Submit would still take one.
  void FillQueue() {
    const std::lock_guard lock(mutex_);
    full_ = true;
  }
  // The next Submits throw this.
  void RefuseWith(std::optional<Error> refusal) {
    const std::lock_guard lock(mutex_);
    refusal_ = std::move(refusal);
  }
  // What Stats says that requests are refused for.
  void Lose(std::string failure, bool restarting) {
    const std::lock_guard lock(mutex_);
    lost_ = std::move(failure);
    restarting_ = restarting;
  }
  // Every live sequence is reported with `reason` at the next round.
  void FailStep(std::string message, FinishReason reason = FinishReason::kError) {
    const std::lock_guard lock(mutex_);
    failure_ = std::move(message);
    failure_reason_ = reason;
  }
  // The reports of the next round are of a sequence that their request does not have.
  void Misnumber() {
    const std::lock_guard lock(mutex_);
    misnumber_ = true;
  }
  // Waits until `count` sequences live; false after ten seconds.
  bool AwaitLive(size_t count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(10), [&] { return live_.size() == count; });
  }
  std::vector<Request> submitted() const {
    const std::lock_guard lock(mutex_);
    return submitted_;
  }
  size_t aborted() const {
    const std::lock_guard lock(mutex_);
    return aborted_.size();
  }
  size_t ended_sequences() const {
    const std::lock_guard lock(mutex_);
    return ended_.size();
  }

  // What every sequence finds of its prompt.
  static int CachedTokens(const Request& request) {
    return static_cast<int>(request.prompt.size() / 2);
  }

  static std::vector<TokenId> HashScript(const Request& request, int index) {
    uint64_t state = request.sampling.seed.value_or(7) * 31 + static_cast<uint64_t>(index);
    for (const TokenId token : request.prompt)
      state = state * 1'000'003 + static_cast<uint64_t>(token);
    std::vector<TokenId> tokens;
    for (int i = 0; i < request.sampling.max_tokens; ++i) {
      state = state * 6'364'136'223'846'793'005u + 1'442'695'040'888'963'407u;
      tokens.push_back(static_cast<TokenId>((state >> 33) % 4000));
    }
    return tokens;
  }

 private:
  struct Live {
    Request request;
    std::vector<TokenId> tokens;
    OutputReceiver receiver;
    size_t made = 0;
  };
  using Report = std::pair<OutputReceiver, Output>;

  static SampledToken Scored(TokenId token, const std::optional<int>& alternatives) {
    SampledToken scored{.token = token, .logprob = -0.5f, .rank = 1};
    for (int i = 0; i < alternatives.value_or(0); ++i) {
      scored.top.push_back({.token = (token + i) % 4000, .logprob = -0.5f - static_cast<float>(i)});
    }
    return scored;
  }

  Output Advance(int index, Live& live) {
    const SamplingParams& params = live.request.sampling;
    Output output{.index = index};
    if (failure_) {
      output.finish = failure_reason_;
      output.error = *failure_;
      return output;
    }
    if (live.made == 0 && params.prompt_logprobs) {
      for (size_t i = 1; i < live.request.prompt.size(); ++i) {
        output.prompt.push_back(Scored(live.request.prompt[i], params.prompt_logprobs));
      }
    }
    if (live.made == 0) output.cached_tokens = CachedTokens(live.request);
    const TokenId token = live.made < live.tokens.size() ? live.tokens[live.made] : kEos;
    ++live.made;
    output.tokens.push_back(Scored(token, params.logprobs));
    const auto& stops = params.stop_token_ids;
    if ((token == kEos && !params.ignore_eos) ||
        std::find(stops.begin(), stops.end(), token) != stops.end()) {
      output.finish = FinishReason::kStop;
    } else if (live.made == static_cast<size_t>(params.max_tokens)) {
      output.finish = FinishReason::kLength;
    }
    return output;
  }

  void Run() {
    Outbox outbox;
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [&] { return stop_ || !live_.empty(); });
      if (stop_) return;
      std::vector<Report> reports;
      for (auto entry = live_.begin(); entry != live_.end();) {
        Output output = Advance(entry->first.second, entry->second);
        const bool ended = output.finish.has_value();
        if (misnumber_) output.index = entry->second.request.sampling.n;
        reports.emplace_back(entry->second.receiver, std::move(output));
        entry = ended ? live_.erase(entry) : std::next(entry);
      }
      failure_.reset();
      misnumber_ = false;
      changed_.notify_all();
      lock.unlock();
      for (auto& [receiver, output] : reports) outbox.Put(receiver, std::move(output));
      outbox.Flush();
      reports.clear();
      if (round_.count() > 0) std::this_thread::sleep_for(round_);
      lock.lock();
    }
  }

  const Script script_;
  const std::chrono::microseconds round_;
  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::condition_variable changed_;
  std::map<std::pair<RequestId, int>, Live> live_;
  std::vector<Request> submitted_;
  std::set<RequestId> aborted_;
  std::set<std::pair<RequestId, int>> ended_;
  std::optional<Error> refusal_;
  bool full_ = false;
  std::vector<StepTiming> steps_;
  std::optional<std::string> failure_;
  FinishReason failure_reason_ = FinishReason::kError;
  bool misnumber_ = false;
  bool restarting_ = false;
  std::string lost_;
  RequestId next_ = 1;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace sluice
