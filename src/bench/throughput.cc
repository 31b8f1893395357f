#include "bench/throughput.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/machine.h"
#include "bench/timing.h"
#include "decode/decode_strategy.h"
#include "sampling/random.h"
#include "sched/engine_loop.h"

namespace sluice {
namespace {

std::vector<std::vector<TokenId>> RandomPrompts(int vocab_size, const ThroughputOptions& options) {
  std::vector<std::vector<TokenId>> prompts(options.prompts);
  uint64_t drawn = 0;
  for (std::vector<TokenId>& prompt : prompts) {
    for (int i = 0; i < options.prompt_tokens; ++i) {
      prompt.push_back(static_cast<TokenId>(MixSeed(options.seed, drawn++) % vocab_size));
    }
  }
  return prompts;
}

// Requests on their way through an engine, and when each of their tokens came.
class Run {
 public:
  Run(ModelRunner& runner, const ThroughputOptions& options, int max_num_seqs)
      : options_(options),
        worker_(runner),
        loop_(worker_, MakeAutoregressive(),
              {.max_num_seqs = max_num_seqs,
               .max_num_batched_tokens = options.max_num_batched_tokens}) {}

  void Submit(const std::vector<TokenId>& prompt) {
    const BenchClock::time_point submitted = BenchClock::now();
    const SamplingParams greedy{
        .temperature = 0, .max_tokens = options_.output_tokens, .ignore_eos = true};
    {
      const std::lock_guard lock(mutex_);
      ++waiting_;
    }
    loop_.Submit({.prompt = prompt, .sampling = greedy},
                 [this, submitted, last = submitted](const Output& output) mutable {
                   OnOutput(output, submitted, last);
                 });
  }

  // Waits for everything that was submitted. Throws Error for a step that failed.
  void Wait() {
    std::unique_lock lock(mutex_);
    finished_.wait(lock, [this] { return waiting_ == 0; });
    if (!error_.empty()) throw Error(ErrorCode::kInternal, error_);
  }

  const std::vector<double>& first_token() const { return first_token_; }
  const std::vector<double>& between_tokens() const { return between_tokens_; }

 private:
  void OnOutput(const Output& output, BenchClock::time_point submitted,
                BenchClock::time_point& last) {
    const BenchClock::time_point now = BenchClock::now();
    const std::lock_guard lock(mutex_);
    if (!output.tokens.empty()) {
      const bool first = last == submitted;
      const double seconds = std::chrono::duration<double>(now - last).count();
      (first ? first_token_ : between_tokens_).push_back(seconds);
      last = now;
    }
    if (!output.finish.has_value()) return;
    if (*output.finish == FinishReason::kError) error_ = output.error;
    if (--waiting_ == 0) finished_.notify_one();
  }

  const ThroughputOptions& options_;
  std::mutex mutex_;  // guards what follows, down to the worker
  std::condition_variable finished_;
  int waiting_ = 0;
  std::string error_;
  std::vector<double> first_token_;     // seconds, one a request
  std::vector<double> between_tokens_;  // seconds, of all requests
  InProcessWorker worker_;
  EngineLoop loop_;
};

uint64_t MemoryInUse(ModelRunner& runner) {
  if (runner.stream() == nullptr) return ResidentBytes();
  const CudaDeviceInfo& device = runner.stream()->device();
  return device.total_bytes - CudaFreeBytes(device.ordinal);
}

boost::json::object Figures(const Run& run, const ThroughputOptions& options, size_t prompts,
                            double seconds, ModelRunner& runner) {
  const auto count = static_cast<double>(prompts);
  const double output = count * options.output_tokens;
  return {{"prompts", prompts},
          {"seconds", seconds},
          {"output_tokens_per_s", output / seconds},
          {"total_tokens_per_s", (output + count * options.prompt_tokens) / seconds},
          {"token_p50_ms", Quantile(run.between_tokens(), 0.5) * 1e3},
          {"token_p99_ms", Quantile(run.between_tokens(), 0.99) * 1e3},
          {"ttft_p50_ms", Quantile(run.first_token(), 0.5) * 1e3},
          {"memory_bytes", MemoryInUse(runner)}};
}

// All at once, or each when the one before is done.
boost::json::object Measure(ModelRunner& runner, const ThroughputOptions& options,
                            std::span<const std::vector<TokenId>> prompts, bool batched) {
  Run run(runner, options, batched ? options.max_num_seqs : 1);
  const BenchClock::time_point begin = BenchClock::now();
  for (const std::vector<TokenId>& prompt : prompts) {
    run.Submit(prompt);
    if (!batched) run.Wait();
  }
  run.Wait();
  const double seconds = SecondsSince(begin);
  return Figures(run, options, prompts.size(), seconds, runner);
}

}  // namespace

boost::json::object BenchThroughput(ModelRunner& runner, const ThroughputOptions& options) {
  SLUICE_CHECK_GE(options.prompts, 1);
  SLUICE_CHECK_GE(options.prompt_tokens, 1);
  SLUICE_CHECK_GE(options.output_tokens, 2);
  SLUICE_CHECK_GE(options.serial_prompts, 1);
  const std::vector<std::vector<TokenId>> prompts =
      RandomPrompts(runner.spec().vocab_size, options);
  const std::span<const std::vector<TokenId>> all(prompts);
  const auto serial_count = std::min(all.size(), static_cast<size_t>(options.serial_prompts));
  // Once for nothing: memory is touched, graphs are recorded.
  Measure(runner, options, all.first(std::min<size_t>(all.size(), options.max_num_seqs)), true);
  boost::json::object serial = Measure(runner, options, all.first(serial_count), false);
  boost::json::object batched = Measure(runner, options, all, true);
  const double ratio =
      batched.at("output_tokens_per_s").as_double() / serial.at("output_tokens_per_s").as_double();
  return {{"prompt_tokens", options.prompt_tokens}, {"output_tokens", options.output_tokens},
          {"max_num_seqs", options.max_num_seqs},   {"serial", std::move(serial)},
          {"batched", std::move(batched)},          {"ratio", ratio}};
}

}  // namespace sluice
