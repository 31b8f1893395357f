#include "sched/engine_metrics.h"

namespace sluice {

namespace {

const std::vector<double> kSecondsToFirstToken = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,
                                                  0.25,  0.5,   0.75, 1,    2.5,  5,    7.5,  10,
                                                  20,    40,    80,   160,  640,  2560};
const std::vector<double> kSecondsBetweenTokens = {
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3,
    0.4,   0.5,    0.75,  1,    2.5,   5,    7.5,   10,  20,   40,  80};
const std::vector<double> kSecondsOfRequest = {0.05, 0.1, 0.3, 0.5, 0.8, 1,    1.5, 2,
                                               2.5,  5,   10,  15,  20,  30,   40,  50,
                                               60,   120, 240, 480, 960, 1920, 7680};
const std::vector<double> kTokens = {1,   2,    5,    10,   20,    50,    100,   200,
                                     500, 1000, 2000, 5000, 10000, 20000, 50000, 100000};
const std::vector<double> kStepTokens = {1,   8,    16,   32,   64,   128,  256,
                                         512, 1024, 2048, 4096, 8192, 16384};
const std::vector<double> kSmallCounts = {1, 2, 5, 10, 20, 50, 100};

double Seconds(EngineClock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

prometheus::Gauge& WaitingGauge(Metrics& metrics, Metrics::Labels labels,
                                const std::string& reason) {
  labels["reason"] = reason;
  return metrics.Gauge("vllm:num_requests_waiting_by_reason",
                       "Sequences waiting for room in the batch or for pages (capacity), or for "
                       "something else (deferred).",
                       labels);
}

prometheus::Gauge& SleepGauge(Metrics& metrics, Metrics::Labels labels, const std::string& state) {
  labels["sleep_state"] = state;
  return metrics.Gauge("vllm:engine_sleep_state", "1 for the state that the engine is in.", labels);
}

prometheus::Counter& FinishCounter(Metrics& metrics, Metrics::Labels labels, FinishReason reason) {
  labels["finished_reason"] = FinishReasonName(reason);
  return metrics.Counter("vllm:request_success_total", "Finished sequences by reason.", labels);
}

}  // namespace

EngineMetrics::EngineMetrics(Metrics& metrics, const Metrics::Labels& labels)
    : running_(metrics.Gauge("vllm:num_requests_running", "Sequences in the batch.", labels)),
      waiting_(
          metrics.Gauge("vllm:num_requests_waiting", "Sequences waiting for a place.", labels)),
      waiting_for_capacity_(WaitingGauge(metrics, labels, "capacity")),
      waiting_tokens_(metrics.Gauge("sluice:waiting_prompt_tokens",
                                    "Prompt tokens of sequences that have no token yet.", labels)),
      kv_usage_(
          metrics.Gauge("vllm:kv_cache_usage_perc", "Share of KV pages in use, 0 to 1.", labels)),
      prompt_tokens_(metrics.Counter(
          "vllm:prompt_tokens_total",
          "Prompt tokens processed, those found in the prefix cache among them.", labels)),
      prompt_tokens_cached_(metrics.Counter("vllm:prompt_tokens_cached_total",
                                            "Prompt tokens found in the prefix cache.", labels)),
      generation_tokens_(
          metrics.Counter("vllm:generation_tokens_total", "Tokens generated.", labels)),
      prefix_queries_(metrics.Counter("vllm:prefix_cache_queries_total",
                                      "Tokens looked up in the prefix cache.", labels)),
      prefix_hits_(metrics.Counter("vllm:prefix_cache_hits_total",
                                   "Tokens found in the prefix cache.", labels)),
      prefix_evictions_(metrics.Counter("sluice:prefix_cache_evicted_pages_total",
                                        "Cached KV pages given up for new ones.", labels)),
      preemptions_(metrics.Counter("vllm:num_preemptions_total",
                                   "Sequences that gave their pages back to wait.", labels)),
      put_off_(metrics.Counter("sluice:prompts_put_off_steps_total",
                               "Steps in which prompts that had a place waited to begin together.",
                               labels)),
      swapped_out_(metrics.Counter("sluice:swapped_out_pages_total",
                                   "KV pages copied to host memory by preemptions.", labels)),
      swapped_in_(metrics.Counter("sluice:swapped_in_pages_total",
                                  "KV pages copied back from host memory.", labels)),
      restarts_(metrics.Counter("sluice:worker_restarts_total",
                                "Times that a lost worker was started again.", labels)),
      finished_{&FinishCounter(metrics, labels, FinishReason::kStop),
                &FinishCounter(metrics, labels, FinishReason::kLength),
                &FinishCounter(metrics, labels, FinishReason::kAbort),
                &FinishCounter(metrics, labels, FinishReason::kError),
                &FinishCounter(metrics, labels, FinishReason::kTimeout)},
      step_tokens_(
          metrics.Histogram("vllm:iteration_tokens_total", "Rows of a step.", kStepTokens, labels)),
      first_token_(metrics.Histogram("vllm:time_to_first_token_seconds",
                                     "From submission to the first token.", kSecondsToFirstToken,
                                     labels)),
      inter_token_(metrics.Histogram("vllm:inter_token_latency_seconds",
                                     "Between the tokens of a sequence.", kSecondsBetweenTokens,
                                     labels)),
      time_per_output_token_(metrics.Histogram("vllm:request_time_per_output_token_seconds",
                                               "Mean time of a sequence's tokens after the first.",
                                               kSecondsBetweenTokens, labels)),
      end_to_end_(metrics.Histogram("vllm:e2e_request_latency_seconds",
                                    "From submission to the last token.", kSecondsOfRequest,
                                    labels)),
      queue_(metrics.Histogram("vllm:request_queue_time_seconds",
                               "From submission to the first step.", kSecondsOfRequest, labels)),
      prefill_(metrics.Histogram("vllm:request_prefill_time_seconds",
                                 "From the first step to the first token.", kSecondsOfRequest,
                                 labels)),
      decode_(metrics.Histogram("vllm:request_decode_time_seconds",
                                "From the first token to the last.", kSecondsOfRequest, labels)),
      inference_(metrics.Histogram("vllm:request_inference_time_seconds",
                                   "From the first step to the last token.", kSecondsOfRequest,
                                   labels)),
      request_prompt_tokens_(metrics.Histogram("vllm:request_prompt_tokens",
                                               "Prompt tokens of a sequence.", kTokens, labels)),
      request_generation_tokens_(metrics.Histogram(
          "vllm:request_generation_tokens", "Generated tokens of a sequence.", kTokens, labels)),
      request_n_(metrics.Histogram("vllm:request_params_n", "Sequences asked for by a request.",
                                   kSmallCounts, labels)),
      request_max_tokens_(metrics.Histogram("vllm:request_params_max_tokens",
                                            "Tokens asked for by a request.", kTokens, labels)) {
  WaitingGauge(metrics, labels, "deferred").Set(0);  // nothing here waits for anything else
  for (const std::string state : {"awake", "weights_offloaded", "discard_all"}) {
    SleepGauge(metrics, labels, state).Set(state == "awake" ? 1 : 0);  // it never sleeps
  }
}

void EngineMetrics::OnSubmit(const Request& request) {
  request_n_.Observe(request.sampling.n);
  request_max_tokens_.Observe(request.sampling.max_tokens);
}

void EngineMetrics::OnStep(int rows, const EngineStats& before, const EngineStats& after) {
  step_tokens_.Observe(rows);
  const auto count = [&](prometheus::Counter& counter, uint64_t EngineStats::*total) {
    counter.Increment(static_cast<double>(after.*total - before.*total));
  };
  count(prompt_tokens_, &EngineStats::prompt_tokens);
  count(prompt_tokens_cached_, &EngineStats::prompt_tokens_cached);
  count(generation_tokens_, &EngineStats::generation_tokens);
  count(preemptions_, &EngineStats::preemptions);
  count(prefix_queries_, &EngineStats::prefix_queries);
  count(prefix_hits_, &EngineStats::prefix_hits);
  count(prefix_evictions_, &EngineStats::prefix_evictions);
  count(put_off_, &EngineStats::steps_put_off);
  count(swapped_out_, &EngineStats::pages_swapped_out);
  count(swapped_in_, &EngineStats::pages_swapped_in);
}

void EngineMetrics::OnAdmitted(const SequenceTimes& times) {
  queue_.Observe(Seconds(*times.admitted - times.submitted));
}

void EngineMetrics::OnTokens(int tokens, EngineClock::time_point now, const SequenceTimes& times) {
  int gaps = tokens;
  EngineClock::time_point last = times.last_token;
  if (!times.first_token) {
    first_token_.Observe(Seconds(now - times.submitted));
    if (times.admitted) prefill_.Observe(Seconds(now - *times.admitted));
    --gaps;
    last = now;
  }
  for (int i = 0; i < gaps; ++i) inter_token_.Observe(Seconds(now - last) / gaps);
}

void EngineMetrics::OnFinish(FinishReason reason, EngineClock::time_point now,
                             const SequenceTimes& times) {
  finished_[static_cast<size_t>(reason)]->Increment();
  end_to_end_.Observe(Seconds(now - times.submitted));
  request_prompt_tokens_.Observe(times.prompt_tokens);
  request_generation_tokens_.Observe(times.generated);
  if (!times.first_token) return;
  const double decode = Seconds(times.last_token - *times.first_token);
  decode_.Observe(decode);
  if (times.admitted) inference_.Observe(Seconds(times.last_token - *times.admitted));
  if (times.generated > 1) time_per_output_token_.Observe(decode / (times.generated - 1));
}

void EngineMetrics::OnRestart() {
  restarts_.Increment();
}

void EngineMetrics::SetGauges(const EngineStats& stats) {
  running_.Set(stats.running);
  waiting_.Set(stats.waiting);
  waiting_for_capacity_.Set(stats.waiting);
  waiting_tokens_.Set(static_cast<double>(stats.waiting_tokens));
  kv_usage_.Set(static_cast<double>(stats.pages_used) / stats.pages_total);
}

}  // namespace sluice
