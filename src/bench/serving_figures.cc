#include "bench/serving_figures.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <cmath>
#include <map>
#include <utility>

#include "bench/timing.h"

namespace sluice {
namespace {

namespace json = boost::json;

// A latency of ServingFigures as it is reported.
struct LatencyName {
  const char* key;
  const char* title;
  const char* label;
  LatencySpread ServingFigures::*spread;
};
constexpr LatencyName kLatencies[] = {
    {"ttft", "Time to First Token", "TTFT", &ServingFigures::ttft},
    {"tpot", "Time per Output Token (excl. 1st token)", "TPOT", &ServingFigures::tpot},
    {"itl", "Inter-token Latency", "ITL", &ServingFigures::itl},
    {"e2el", "End-to-end Latency", "E2EL", &ServingFigures::e2el},
};

LatencySpread Spread(const std::vector<double>& seconds, std::span<const double> percentiles) {
  LatencySpread spread;
  spread.percentiles.resize(percentiles.size(), 0.0);
  if (seconds.empty()) return spread;
  const auto count = static_cast<double>(seconds.size());
  double sum = 0.0;
  for (const double value : seconds) sum += value;
  double squares = 0.0;
  for (const double value : seconds) squares += (value - sum / count) * (value - sum / count);
  spread.mean = 1e3 * sum / count;
  spread.deviation = 1e3 * std::sqrt(squares / count);
  spread.median = 1e3 * Median(seconds);
  spread.most = 1e3 * *std::max_element(seconds.begin(), seconds.end());
  for (size_t i = 0; i < percentiles.size(); ++i) {
    spread.percentiles[i] = 1e3 * Quantile(seconds, percentiles[i] / 100.0);
  }
  return spread;
}

// Tokens are shared out to the pieces of their answer: which piece holds how many is not said.
double PeakOutputRate(std::span<const RequestOutcome> outcomes) {
  std::map<int64_t, double> tokens_of_second;
  for (const RequestOutcome& outcome : outcomes) {
    if (!outcome.error.empty() || outcome.chunks_s.empty()) continue;
    const double share =
        static_cast<double>(outcome.output_tokens) / static_cast<double>(outcome.chunks_s.size());
    for (const double at : outcome.chunks_s) tokens_of_second[static_cast<int64_t>(at)] += share;
  }
  double peak = 0.0;
  for (const auto& [second, tokens] : tokens_of_second) peak = std::max(peak, tokens);
  return peak;
}

int PeakConcurrent(std::span<const RequestOutcome> outcomes) {
  std::vector<std::pair<double, int>> changes;  // at the same time ends come first
  for (const RequestOutcome& outcome : outcomes) {
    changes.emplace_back(outcome.sent_s, 1);
    changes.emplace_back(outcome.ended_s, -1);
  }
  std::sort(changes.begin(), changes.end());
  int now = 0;
  int peak = 0;
  for (const auto& [time, change] : changes) peak = std::max(peak, now += change);
  return peak;
}

std::vector<FailureKind> Failures(std::span<const RequestOutcome> outcomes,
                                  std::span<const double> percentiles) {
  std::map<std::string, std::vector<double>> seconds_of_error;
  for (const RequestOutcome& outcome : outcomes) {
    if (outcome.error.empty()) continue;
    seconds_of_error[outcome.error].push_back(outcome.ended_s - outcome.sent_s);
  }
  std::vector<FailureKind> kinds;
  for (const auto& [error, seconds] : seconds_of_error) {
    kinds.push_back(
        {.error = error, .count = seconds.size(), .after = Spread(seconds, percentiles)});
  }
  std::stable_sort(kinds.begin(), kinds.end(),
                   [](const FailureKind& a, const FailureKind& b) { return a.count > b.count; });
  return kinds;
}

// "99", "99.9"
std::string PercentileName(double percentile) {
  return fmt::format("{:g}", percentile);
}

void AppendLine(std::string& block, std::string_view name, const std::string& value) {
  block += fmt::format("{:<40} {}\n", name, value);
}

void AppendLatency(std::string& block, const LatencyName& name, const LatencySpread& spread,
                   std::span<const double> percentiles) {
  const auto line = [&](const std::string& kind, double ms) {
    AppendLine(block, fmt::format("{} {} (ms):", kind, name.label), fmt::format("{:.2f}", ms));
  };
  block += fmt::format("{:-^50}\n", name.title);
  line("Mean", spread.mean);
  line("Median", spread.median);
  for (size_t i = 0; i < percentiles.size(); ++i) {
    line("P" + PercentileName(percentiles[i]), spread.percentiles[i]);
  }
}

json::array FailuresJson(const std::vector<FailureKind>& failures,
                         std::span<const double> percentiles) {
  json::array list;
  for (const FailureKind& kind : failures) {
    json::object entry{{"error", kind.error},
                       {"count", kind.count},
                       {"mean_ms", kind.after.mean},
                       {"median_ms", kind.after.median}};
    for (size_t i = 0; i < percentiles.size(); ++i) {
      entry["p" + PercentileName(percentiles[i]) + "_ms"] = kind.after.percentiles[i];
    }
    list.push_back(std::move(entry));
  }
  return list;
}

json::array OutcomesJson(std::span<const RequestOutcome> outcomes) {
  json::array list;
  for (const RequestOutcome& outcome : outcomes) {
    json::object entry{{"sent_s", outcome.sent_s},
                       {"prompt_tokens", outcome.prompt_tokens},
                       {"output_tokens", outcome.output_tokens},
                       {"e2el_ms", 1e3 * (outcome.ended_s - outcome.sent_s)}};
    if (!outcome.chunks_s.empty()) {
      entry["ttft_ms"] = 1e3 * (outcome.chunks_s.front() - outcome.sent_s);
    }
    if (!outcome.error.empty()) entry["error"] = outcome.error;
    list.push_back(std::move(entry));
  }
  return list;
}

}  // namespace

ServingFigures SummarizeServing(std::span<const RequestOutcome> outcomes,
                                std::span<const double> percentiles) {
  ServingFigures figures;
  std::vector<double> ttft, tpot, itl, e2el, late;  // seconds
  for (const RequestOutcome& outcome : outcomes) {
    late.push_back(outcome.late_s);
    figures.duration_s = std::max(figures.duration_s, outcome.ended_s);
    if (!outcome.error.empty()) {
      ++figures.failed;
      continue;
    }
    ++figures.completed;
    figures.input_tokens += outcome.prompt_tokens;
    figures.output_tokens += outcome.output_tokens;
    e2el.push_back(outcome.ended_s - outcome.sent_s);
    if (outcome.chunks_s.empty()) continue;
    const double first = outcome.chunks_s.front();
    ttft.push_back(first - outcome.sent_s);
    if (outcome.output_tokens > 1) {
      tpot.push_back((outcome.ended_s - first) / static_cast<double>(outcome.output_tokens - 1));
    }
    for (size_t i = 1; i < outcome.chunks_s.size(); ++i) {
      itl.push_back(outcome.chunks_s[i] - outcome.chunks_s[i - 1]);
    }
  }
  if (figures.duration_s > 0.0) {
    const auto rate = [&](auto count) { return static_cast<double>(count) / figures.duration_s; };
    figures.requests_per_s = rate(figures.completed);
    figures.output_tokens_per_s = rate(figures.output_tokens);
    figures.total_tokens_per_s = rate(figures.input_tokens + figures.output_tokens);
  }
  figures.peak_output_tokens_per_s = PeakOutputRate(outcomes);
  figures.peak_concurrent = PeakConcurrent(outcomes);
  figures.ttft = Spread(ttft, percentiles);
  figures.tpot = Spread(tpot, percentiles);
  figures.itl = Spread(itl, percentiles);
  figures.e2el = Spread(e2el, percentiles);
  figures.lateness = Spread(late, percentiles);
  figures.failures = Failures(outcomes, percentiles);
  return figures;
}

std::string ServingBlock(const ServingFigures& figures, const ServingReport& report) {
  const auto number = [](double value) { return fmt::format("{:.2f}", value); };
  std::string block = fmt::format("{:=^50}\n", " Serving Benchmark Result ");
  AppendLine(block, "Successful requests:", std::to_string(figures.completed));
  AppendLine(block, "Failed requests:", std::to_string(figures.failed));
  if (report.max_concurrency) {
    AppendLine(block, "Maximum request concurrency:", std::to_string(*report.max_concurrency));
  }
  if (report.request_rate) {
    AppendLine(block, "Request rate configured (RPS):", number(*report.request_rate));
  }
  AppendLine(block, "Benchmark duration (s):", number(figures.duration_s));
  AppendLine(block, "Total input tokens:", std::to_string(figures.input_tokens));
  AppendLine(block, "Total generated tokens:", std::to_string(figures.output_tokens));
  AppendLine(block, "Request throughput (req/s):", number(figures.requests_per_s));
  AppendLine(block, "Output token throughput (tok/s):", number(figures.output_tokens_per_s));
  AppendLine(block,
             "Peak output token throughput (tok/s):", number(figures.peak_output_tokens_per_s));
  AppendLine(block, "Peak concurrent requests:", number(figures.peak_concurrent));
  AppendLine(block, "Total token throughput (tok/s):", number(figures.total_tokens_per_s));
  const auto is_wanted = [&](const char* key) {
    return std::find(report.metrics.begin(), report.metrics.end(), key) != report.metrics.end();
  };
  for (const LatencyName& name : kLatencies) {
    if (!is_wanted(name.key)) continue;
    AppendLatency(block, name, figures.*name.spread, report.percentiles);
  }
  block += std::string(50, '=') + "\n";
  if (is_wanted("itl")) AppendLine(block, "Max ITL (ms):", number(figures.itl.most));
  return block;
}

json::object ServingJson(const ServingFigures& figures, std::span<const double> percentiles,
                         std::span<const RequestOutcome> outcomes) {
  json::object result{{"duration", figures.duration_s},
                      {"completed", figures.completed},
                      {"failed", figures.failed},
                      {"total_input_tokens", figures.input_tokens},
                      {"total_output_tokens", figures.output_tokens},
                      {"request_throughput", figures.requests_per_s},
                      {"output_throughput", figures.output_tokens_per_s},
                      {"total_token_throughput", figures.total_tokens_per_s},
                      {"max_output_tokens_per_s", figures.peak_output_tokens_per_s},
                      {"max_concurrent_requests", figures.peak_concurrent}};
  const auto add = [&](std::string_view name, const LatencySpread& spread) {
    const auto key = [&](const std::string& kind) { return fmt::format("{}_{}_ms", kind, name); };
    result[key("mean")] = spread.mean;
    result[key("median")] = spread.median;
    result[key("std")] = spread.deviation;
    result[key("max")] = spread.most;
    for (size_t i = 0; i < percentiles.size(); ++i) {
      result[key("p" + PercentileName(percentiles[i]))] = spread.percentiles[i];
    }
  };
  for (const LatencyName& name : kLatencies) add(name.key, figures.*name.spread);
  add("lateness", figures.lateness);
  result["failures"] = FailuresJson(figures.failures, percentiles);
  result["requests"] = OutcomesJson(outcomes);
  return result;
}

}  // namespace sluice
