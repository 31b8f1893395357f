#pragma once

#include <array>
#include <chrono>
#include <optional>

#include "base/metrics.h"
#include "request/request.h"
#include "sched/generator.h"

namespace sluice {

using EngineClock = std::chrono::steady_clock;

// When what happened to one sequence, for the latency metrics.
struct SequenceTimes {
  EngineClock::time_point submitted;
  std::optional<EngineClock::time_point> admitted;
  std::optional<EngineClock::time_point> first_token;
  EngineClock::time_point last_token;
  int prompt_tokens = 0;
  int generated = 0;
};

// The engine's metrics under the names that vLLM's users have dashboards for, with `labels` on
// each. Called by the engine's thread; readable from any.
class EngineMetrics {
 public:
  EngineMetrics(Metrics& metrics, const Metrics::Labels& labels);

  void OnSubmit(const Request& request);
  void OnStep(int rows, const EngineStats& before, const EngineStats& after);
  void OnAdmitted(const SequenceTimes& times);
  // `tokens` more tokens of a sequence at `now`; `times` as they were before them.
  void OnTokens(int tokens, EngineClock::time_point now, const SequenceTimes& times);
  void OnFinish(FinishReason reason, EngineClock::time_point now, const SequenceTimes& times);
  void OnRestart();
  void SetGauges(const EngineStats& stats);

 private:
  prometheus::Gauge& running_;
  prometheus::Gauge& waiting_;
  prometheus::Gauge& waiting_for_capacity_;
  prometheus::Gauge& waiting_tokens_;
  prometheus::Gauge& kv_usage_;
  prometheus::Counter& prompt_tokens_;
  prometheus::Counter& prompt_tokens_cached_;
  prometheus::Counter& generation_tokens_;
  prometheus::Counter& prefix_queries_;
  prometheus::Counter& prefix_hits_;
  prometheus::Counter& prefix_evictions_;
  prometheus::Counter& preemptions_;
  prometheus::Counter& put_off_;
  prometheus::Counter& swapped_out_;
  prometheus::Counter& swapped_in_;
  prometheus::Counter& restarts_;
  std::array<prometheus::Counter*, 5> finished_;  // by FinishReason
  prometheus::Histogram& step_tokens_;
  prometheus::Histogram& first_token_;
  prometheus::Histogram& inter_token_;
  prometheus::Histogram& time_per_output_token_;
  prometheus::Histogram& end_to_end_;
  prometheus::Histogram& queue_;
  prometheus::Histogram& prefill_;
  prometheus::Histogram& decode_;
  prometheus::Histogram& inference_;
  prometheus::Histogram& request_prompt_tokens_;
  prometheus::Histogram& request_generation_tokens_;
  prometheus::Histogram& request_n_;
  prometheus::Histogram& request_max_tokens_;
};

}  // namespace sluice
