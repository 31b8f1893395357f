#pragma once

#include <boost/json/object.hpp>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

// What a load test of a server shows, from what happened to each of its requests.
namespace sluice {

// Times are in seconds after the run's beginning.
struct RequestOutcome {
  double sent_s = 0.0;
  double late_s = 0.0;   // sent so long after it was due and had a place: the client's fault
  double ended_s = 0.0;  // the last of its answer came, or its failure was seen
  // When each piece of the answer came, from the first on that carries text.
  std::vector<double> chunks_s;
  int64_t prompt_tokens = 0;  // as the server counts them, or else as they were asked for
  int64_t output_tokens = 0;  // as the server counts them, or else the pieces
  std::string error;          // empty = answered whole
};

// A distribution of times, in ms; all zero where there were none.
struct LatencySpread {
  double mean = 0.0;
  double median = 0.0;
  double deviation = 0.0;  // standard, of the population
  double most = 0.0;
  std::vector<double> percentiles;  // as many as were asked for, in that order
};

struct FailureKind {
  std::string error;
  size_t count = 0;
  LatencySpread after;  // sending, it was seen
};

// Latencies are those of the requests that were answered whole, rates count their tokens only.
struct ServingFigures {
  double duration_s = 0.0;  // from the beginning to the last end
  size_t completed = 0;
  size_t failed = 0;
  int64_t input_tokens = 0;
  int64_t output_tokens = 0;
  double requests_per_s = 0.0;
  double output_tokens_per_s = 0.0;
  double total_tokens_per_s = 0.0;
  double peak_output_tokens_per_s = 0.0;  // of the best whole second after the beginning
  int peak_concurrent = 0;                // most that were sent and had not ended
  LatencySpread ttft;                     // sent to the first piece with text
  LatencySpread tpot;  // from then to the end, for each further token; of answers with two or more
  LatencySpread itl;   // between two pieces, of all answers together
  LatencySpread e2el;  // sent to the end
  LatencySpread lateness;  // due to sent, of all requests; where long, the rest is the client's
  std::vector<FailureKind> failures;  // the most frequent first
};

// `percentiles` are in (0, 100].
ServingFigures SummarizeServing(std::span<const RequestOutcome> outcomes,
                                std::span<const double> percentiles);

// What is reported beside the figures.
struct ServingReport {
  std::optional<int> max_concurrency;
  std::optional<double> request_rate;                          // none = all at once
  std::vector<std::string> metrics = {"ttft", "tpot", "itl"};  // of these and e2el
  std::vector<double> percentiles = {99.0};
};

// The block that vLLM's `bench serve` prints, in its names and order, ended by a newline. Where it
// has the ITL, the longest stall of a stream stands behind it.
std::string ServingBlock(const ServingFigures& figures, const ServingReport& report);

// Every figure under the key that vLLM's result files have for it ("p99_ttft_ms"), the greatest of
// each latency ("max_itl_ms"), how late the client was ("p99_lateness_ms"), the failures, and what
// happened to each request.
boost::json::object ServingJson(const ServingFigures& figures, std::span<const double> percentiles,
                                std::span<const RequestOutcome> outcomes);

}  // namespace sluice
