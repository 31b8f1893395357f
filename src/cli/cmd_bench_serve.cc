#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json/serialize.hpp>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "bench/load_client.h"
#include "bench/serve_workload.h"
#include "bench/serving_figures.h"
#include "cli/commands.h"
#include "cli/model_flags.h"
#include "hub/model_places.h"
#include "tokenizer/tokenizer.h"

namespace sluice {
namespace {

struct BenchServeFlags {
  LoadTarget target;
  double timeout_s = 600.0;
  std::string tokenizer;
  int num_prompts = 1000;
  int num_warmups = 0;
  ArrivalProcess arrivals;
  std::optional<int> max_concurrency;
  int client_threads = 1;
  RandomWorkload random;
  int vocab_size = 1024;
  std::string dataset_path;
  std::optional<int> sharegpt_output_tokens;
  uint64_t seed = 0;
  ServingReport report;
  bool json = false;
};

void AddTargetFlags(CLI::App& command, BenchServeFlags& flags) {
  LoadTarget& target = flags.target;
  command.add_option("--base-url", target.base_url, "The server: http://HOST:PORT, or https");
  command.add_option("--endpoint", target.endpoint,
                     "/v1/completions or /v1/chat/completions, or a path that ends so");
  command.add_option("--model", target.model, "Name to ask for; default: the server's first");
  command.add_option("--api-key", target.api_key, "Sent as 'Authorization: Bearer KEY'")
      ->envname("OPENAI_API_KEY");
  command.add_option("--timeout", flags.timeout_s,
                     "Seconds without a byte after which a request has failed");
  command.add_option("--temperature", target.temperature, "Of every request");
  command.add_flag("--ignore-eos", target.ignore_eos,
                   "Ask for answers of full length, where the server can");
}

void AddLoadFlags(CLI::App& command, BenchServeFlags& flags) {
  command.add_option("--num-prompts,--requests", flags.num_prompts, "Requests to measure")
      ->check(Quiet(CLI::Range(1, 1 << 24)));
  command
      .add_option("--num-warmups", flags.num_warmups,
                  "Requests of the same kind to send before, which are not measured")
      ->check(Quiet(CLI::Range(0, 1 << 24)));
  command.add_option("--request-rate", flags.arrivals.rate,
                     "Requests a second that arrive; inf: all at once");
  command.add_option("--burstiness", flags.arrivals.burstiness,
                     "Shape of the gamma distribution of the time between arrivals: 1 is a Poisson "
                     "process, less comes in bursts");
  command
      .add_option("--max-concurrency,--concurrency", flags.max_concurrency,
                  "Requests on their way at once; further ones wait to be sent; default: no limit")
      ->check(Quiet(CLI::PositiveNumber));
  command
      .add_option("--client-threads", flags.client_threads,
                  "Threads that send and read, each its share of the requests and of "
                  "--max-concurrency")
      ->check(Quiet(CLI::Range(1, 256)));
  command.add_option("--seed", flags.seed, "Of prompts, lengths, order and arrivals");
}

void AddPromptFlags(CLI::App& command, BenchServeFlags& flags) {
  RandomWorkload& random = flags.random;
  command
      .add_option("--random-input-len", random.input_tokens,
                  "Tokens of a random prompt, the prefix not counted")
      ->check(Quiet(CLI::Range(0, 1 << 20)));
  command.add_option("--random-output-len", random.output_tokens, "Tokens to ask for")
      ->check(Quiet(CLI::Range(1, 1 << 20)));
  command.add_option("--random-range-ratio", random.range_ratio,
                     "Lengths are uniform from so much less to so much more, 0.2 say; below 1");
  command
      .add_option("--random-prefix-len", random.prefix_tokens,
                  "Tokens in front of it that it shares with other prompts")
      ->check(Quiet(CLI::Range(0, 1 << 20)));
  command
      .add_option("--random-num-prefixes", random.num_prefixes,
                  "Different prefixes, which prompts take in turn")
      ->check(Quiet(CLI::Range(1, 1 << 20)));
  command
      .add_option("--vocab-size", flags.vocab_size,
                  "Without --tokenizer random tokens are ids below this")
      ->check(Quiet(CLI::Range(1, 1 << 24)));
  command.add_option("--tokenizer", flags.tokenizer,
                     "Folder or ORG/NAME of the server's tokenizer: makes random prompts of its "
                     "tokens, text of them for chats, and counts a dataset's");
  command.add_option("--dataset-path", flags.dataset_path,
                     "JSON file of conversations in ShareGPT's form to take prompts from");
  command
      .add_option("--sharegpt-output-len", flags.sharegpt_output_tokens,
                  "Tokens to ask for; default: those of the dataset's reply")
      ->check(Quiet(CLI::Range(1, 1 << 20)));
}

void AddReportFlags(CLI::App& command, BenchServeFlags& flags) {
  command
      .add_option("--percentile-metrics", flags.report.metrics,
                  "Latencies to print, of ttft, tpot, itl and e2el")
      ->check(Quiet(CLI::IsMember({"ttft", "tpot", "itl", "e2el"})))
      ->delimiter(',')
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command.add_option("--metric-percentiles", flags.report.percentiles, "Percentiles of each")
      ->delimiter(',')
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command.add_flag("--json", flags.json, "Print every figure and every request as JSON");
}

void Require(bool holds, const std::string& otherwise) {
  if (!holds) throw Error(ErrorCode::kInvalidArgument, otherwise);
}

void CheckFlags(const BenchServeFlags& flags) {
  Require(flags.target.endpoint.starts_with('/') && flags.target.endpoint.ends_with("/completions"),
          "--endpoint " + flags.target.endpoint +
              ": expected /v1/completions, /v1/chat/completions or a path that ends so");
  Require(flags.arrivals.rate > 0.0, "--request-rate must be above 0, or inf");
  Require(flags.arrivals.burstiness > 0.0 && std::isfinite(flags.arrivals.burstiness),
          "--burstiness must be above 0");
  Require(flags.random.range_ratio >= 0.0 && flags.random.range_ratio < 1.0,
          "--random-range-ratio must be at least 0 and below 1");
  Require(flags.target.temperature >= 0.0, "--temperature must be at least 0");
  Require(flags.timeout_s > 0.0 && flags.timeout_s <= 1e6,
          "--timeout must be above 0 and at most 1000000 seconds");
  for (const double percentile : flags.report.percentiles) {
    Require(percentile > 0.0 && percentile <= 100.0,
            "--metric-percentiles must be above 0 and at most 100");
  }
}

std::string ReadDataset(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file.is_open() || text.view().empty()) {
    throw Error(ErrorCode::kNotFound, "cannot read the dataset '" + path + "'");
  }
  return std::move(text).str();
}

// Those to measure, and after them those to warm up with.
std::vector<LoadRequest> MakeRequests(const BenchServeFlags& flags) {
  std::unique_ptr<Tokenizer> tokenizer;
  if (!flags.tokenizer.empty()) {
    tokenizer = Tokenizer::Load(FindModel(flags.tokenizer, "", ModelPlacesFromEnvironment()).dir /
                                "tokenizer.json");
  }
  const int count = flags.num_prompts + flags.num_warmups;
  if (!flags.dataset_path.empty()) {
    return ShareGptRequests(ReadDataset(flags.dataset_path), count, tokenizer.get(),
                            flags.sharegpt_output_tokens, flags.seed);
  }
  std::vector<TokenId> vocabulary;
  if (tokenizer != nullptr) {
    vocabulary = PlainTokens(*tokenizer);
  } else {
    vocabulary.resize(flags.vocab_size);
    std::iota(vocabulary.begin(), vocabulary.end(), 0);
  }
  std::vector<LoadRequest> requests = RandomRequests(flags.random, vocabulary, count, flags.seed);
  if (!flags.target.endpoint.ends_with("/chat/completions")) return requests;
  Require(
      tokenizer != nullptr,
      "chats are text: name the tokenizer that makes text of random tokens with --tokenizer, or "
      "give a --dataset-path");
  DecodePrompts(*tokenizer, requests);
  return requests;
}

// As many at once as will be measured, so that the server's batches are warm too.
void WarmUp(const LoadTarget& target, std::span<const LoadRequest> requests,
            LoadSchedule schedule) {
  const std::vector<double> at_once(requests.size(), 0.0);
  schedule.at_s = at_once;
  const std::vector<RequestOutcome> outcomes = SendLoad(target, requests, schedule);
  for (const RequestOutcome& outcome : outcomes) {
    if (outcome.error.empty()) continue;
    throw Error(ErrorCode::kUnavailable, "a request of the warm-up failed: " + outcome.error);
  }
}

// Requests that all arrive at once cannot all be sent at once.
void WarnOfLateness(const ServingFigures& figures, const BenchServeFlags& flags) {
  constexpr double kMuchMs = 5.0;
  if (!flags.report.request_rate || figures.lateness.mean < kMuchMs) return;
  fmt::print(stderr,
             "requests were sent {:.0f} ms late in the mean: this client is too slow for the load, "
             "and the figures are also its own; give it more of --client-threads, or cores that "
             "the server does not use\n",
             figures.lateness.mean);
}

void PrintResult(const ServingFigures& figures, const ServingReport& report) {
  fmt::print("{}", ServingBlock(figures, report));
  for (const FailureKind& kind : figures.failures) {
    fmt::print("{} failed, median after {:.2f} ms: {}\n", kind.count, kind.after.median,
               kind.error);
  }
}

void PrintJson(const BenchServeFlags& flags, const ServingFigures& figures,
               std::span<const RequestOutcome> outcomes) {
  boost::json::object result{{"base_url", flags.target.base_url},
                             {"endpoint", flags.target.endpoint},
                             {"model_id", flags.target.model},
                             {"num_prompts", flags.num_prompts},
                             {"burstiness", flags.arrivals.burstiness}};
  // JSON has no infinity: vLLM's files have the word.
  const double rate = flags.arrivals.rate;
  result["request_rate"] = std::isinf(rate) ? boost::json::value("inf") : boost::json::value(rate);
  result["max_concurrency"] = flags.max_concurrency ? boost::json::value(*flags.max_concurrency)
                                                    : boost::json::value(nullptr);
  const boost::json::object measured = ServingJson(figures, flags.report.percentiles, outcomes);
  result.insert(measured.begin(), measured.end());
  fmt::print("{}\n", boost::json::serialize(result));
}

int RunBenchServe(BenchServeFlags flags) {
  CheckFlags(flags);
  flags.target.timeout = std::chrono::milliseconds(std::llround(1e3 * flags.timeout_s));
  flags.report.max_concurrency = flags.max_concurrency;
  if (std::isfinite(flags.arrivals.rate)) flags.report.request_rate = flags.arrivals.rate;
  const std::vector<LoadRequest> requests = MakeRequests(flags);
  const std::vector<double> at_s = ArrivalTimes(flags.num_prompts, flags.arrivals, flags.seed);
  if (flags.target.model.empty()) flags.target.model = FirstServedModel(flags.target);

  const std::span<const LoadRequest> all(requests);
  const LoadSchedule schedule{
      .at_s = at_s, .max_concurrency = flags.max_concurrency, .num_threads = flags.client_threads};
  WarmUp(flags.target, all.subspan(flags.num_prompts), schedule);
  const std::vector<RequestOutcome> outcomes =
      SendLoad(flags.target, all.first(flags.num_prompts), schedule);
  const ServingFigures figures = SummarizeServing(outcomes, flags.report.percentiles);
  WarnOfLateness(figures, flags);
  if (flags.json) {
    PrintJson(flags, figures, outcomes);
  } else {
    PrintResult(figures, flags.report);
  }
  return figures.completed > 0 ? 0 : 1;
}

}  // namespace

Command AddBenchServe(CLI::App& app) {
  auto flags = std::make_shared<BenchServeFlags>();
  CLI::App* command =
      app.add_subcommand("serve", "Load a server that has OpenAI's API, and time its answers");
  AddTargetFlags(*command, *flags);
  AddLoadFlags(*command, *flags);
  AddPromptFlags(*command, *flags);
  AddReportFlags(*command, *flags);
  return [flags] { return RunBenchServe(*flags); };
}

}  // namespace sluice
