#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json/object.hpp>
#include <memory>
#include <string>

#include "base/machine.h"
#include "bench/latency.h"
#include "bench/throughput.h"
#include "cli/bench_report.h"
#include "cli/commands.h"
#include "cli/loaded_model.h"
#include "cli/model_flags.h"

namespace sluice {
namespace {

struct BenchFlags {
  ModelFlags model;
  LatencyOptions latency;
  int max_num_batched_tokens = 8192;
  std::string timeline;
  bool json = false;
};

void AddBenchFlags(CLI::App& command, BenchFlags& flags) {
  AddModelFlags(command, flags.model);
  command.add_option("--batch-size", flags.latency.batch, "Sequences at once")
      ->check(Quiet(CLI::Range(1, 4096)));
  command.add_option("--input-len", flags.latency.prompt_tokens, "Prompt tokens a sequence")
      ->check(Quiet(CLI::Range(1, 1 << 20)));
  command.add_option("--output-len", flags.latency.output_tokens, "Tokens to make a sequence")
      ->check(Quiet(CLI::Range(2, 1 << 20)));
  command
      .add_option("--max-num-batched-tokens", flags.max_num_batched_tokens,
                  "Tokens of one step: prefills longer than what is left are cut in chunks")
      ->check(Quiet(CLI::Range(1, 1 << 20)));
  command.add_option("--repeats", flags.latency.repeats, "Timed runs, after one warm-up")
      ->check(Quiet(CLI::Range(1, 1000)));
  command.add_flag("--json", flags.json, "Print every figure and the raw samples as JSON");
}

struct Loaded {
  std::unique_ptr<Timeline> timeline;  // mostly null
  OpenedModel model;
  std::unique_ptr<ModelRunner> runner;
};

Loaded Load(const BenchFlags& flags) {
  Loaded loaded{.timeline = OpenTimeline(flags.timeline), .model = OpenModel(flags.model)};
  RunnerOptions options = ResolveRunnerOptions(loaded.model.spec, flags.model, {});
  options.timeline = loaded.timeline.get();
  const int positions = flags.latency.prompt_tokens + flags.latency.output_tokens;
  options.num_pages = flags.latency.batch * (positions / options.page_size + 1);
  options.max_model_len = std::min(options.max_model_len, positions);
  options.max_sequences = flags.latency.batch;
  const int64_t rows = int64_t{flags.latency.batch} * positions;
  options.max_step_rows = std::max(
      flags.latency.batch, static_cast<int>(std::min<int64_t>(rows, flags.max_num_batched_tokens)));
  loaded.runner = LoadRunner(loaded.model, flags.model, options);
  return loaded;
}

BenchSubject Subject(const Loaded& loaded, const ModelFlags& flags) {
  return {.model = loaded.model,
          .options = loaded.runner->options(),
          .stream = loaded.runner->stream(),
          .routing = flags.routing,
          .random_weights = loaded.model.random_weights};
}

// "storyteller f32 on 2 threads (avx512)"
std::string Title(const Loaded& loaded) {
  const RunnerOptions& options = loaded.runner->options();
  return fmt::format("{} {} on {}", loaded.model.name, DTypeName(options.dtype), Machine(options));
}

double Number(const boost::json::object& figures, const char* key) {
  return figures.at(key).to_number<double>();
}

std::string BytesOf(const boost::json::object& figures, const char* key) {
  return FormatBytes(static_cast<uint64_t>(Number(figures, key)));
}

void PrintLatency(const Loaded& loaded, const LatencyOptions& options,
                  const boost::json::object& figures) {
  const auto number = [&](const char* key) { return Number(figures, key); };
  fmt::print("{}, batch {}, {} in, {} out{}\n", Title(loaded), options.batch, options.prompt_tokens,
             options.output_tokens, loaded.model.random_weights ? ", random weights" : "");
  fmt::print("  TTFT                 {:10.3f} ms   {:.0f} prompt tok/s\n", number("ttft_ms"),
             number("prefill_tokens_per_s"));
  fmt::print("  TPOT                 {:10.3f} ms   {:.1f} tok/s\n", number("tpot_ms"),
             number("decode_tokens_per_s"));
  fmt::print(
      "  floor                {:10.3f} ms   {} a step at {}/s read from where so much lies\n",
      number("floor_ms"), BytesOf(figures, "decode_step_bytes"),
      BytesOf(figures, "read_bandwidth_bytes_per_s"));
  fmt::print("  share of floor       {:10.1f} %    {:.1f} distinct experts a layer\n",
             100 * number("share_of_floor"), number("distinct_experts_per_layer"));
}

int RunLatency(const BenchFlags& flags) {
  const Loaded loaded = Load(flags);
  return ReportBench(
      Subject(loaded, flags.model), flags.json,
      [&] { return BenchLatency(*loaded.runner, flags.latency); },
      [&](const boost::json::object& figures) { PrintLatency(loaded, flags.latency, figures); });
}

void PrintKvCache(const Loaded& loaded, const LatencyOptions& options,
                  const boost::json::object& figures) {
  const auto number = [&](const char* key) { return Number(figures, key); };
  fmt::print("{}, batch {}, {} in, {} out, {} tokens both times\n", loaded.model.name,
             options.batch, options.prompt_tokens, options.output_tokens,
             figures.at("same_tokens").as_bool() ? "the same" : "not the same");
  fmt::print("  with a KV cache      {:10.1f} ms   {:.1f} tok/s   TTFT {:.2f} ms\n",
             number("with_cache_ms"), number("with_cache_tokens_per_s"), number("ttft_ms"));
  fmt::print("  without              {:10.1f} ms   {:.1f} tok/s\n", number("without_cache_ms"),
             number("without_cache_tokens_per_s"));
  fmt::print("  ratio                {:10.2f}\n", number("ratio"));
}

int RunKvCache(const BenchFlags& flags) {
  const Loaded loaded = Load(flags);
  return ReportBench(
      Subject(loaded, flags.model), flags.json,
      [&] { return BenchKvCache(*loaded.runner, flags.latency); },
      [&](const boost::json::object& figures) { PrintKvCache(loaded, flags.latency, figures); });
}

struct ThroughputFlags {
  ModelFlags model;
  ThroughputOptions throughput;
  bool json = false;
};

Loaded Load(const ThroughputFlags& flags) {
  const ThroughputOptions& throughput = flags.throughput;
  Loaded loaded{.model = OpenModel(flags.model)};
  RunnerOptions options = ResolveRunnerOptions(loaded.model.spec, flags.model, {});
  const int positions = throughput.prompt_tokens + throughput.output_tokens;
  options.num_pages = throughput.max_num_seqs * (positions / options.page_size + 1);
  options.max_model_len = std::min(options.max_model_len, positions);
  options.max_sequences = throughput.max_num_seqs;
  options.max_step_rows = std::max(throughput.max_num_batched_tokens, throughput.max_num_seqs);
  loaded.runner = LoadRunner(loaded.model, flags.model, options);
  return loaded;
}

void PrintThroughput(const Loaded& loaded, const ThroughputOptions& throughput,
                     const boost::json::object& figures) {
  fmt::print("{}, {} in, {} out{}\n", Title(loaded), throughput.prompt_tokens,
             throughput.output_tokens, loaded.model.random_weights ? ", random weights" : "");
  fmt::print("  {:14}{:>10}{:>14}{:>14}{:>14}{:>14}{:>14}\n", "", "requests", "output tok/s",
             "total tok/s", "P50 a token", "P99 a token", "memory");
  for (const char* mode : {"serial", "batched"}) {
    const boost::json::object& run = figures.at(mode).as_object();
    const auto number = [&](const char* key) { return Number(run, key); };
    fmt::print("  {:14}{:>10}{:>14.1f}{:>14.1f}{:>11.2f} ms{:>11.2f} ms{:>14}\n", mode,
               number("prompts"), number("output_tokens_per_s"), number("total_tokens_per_s"),
               number("token_p50_ms"), number("token_p99_ms"), BytesOf(run, "memory_bytes"));
  }
  fmt::print("  batched / serial {:.2f}x, {} sequences at once\n", figures.at("ratio").as_double(),
             throughput.max_num_seqs);
}

int RunThroughput(const ThroughputFlags& flags) {
  const Loaded loaded = Load(flags);
  return ReportBench(
      Subject(loaded, flags.model), flags.json,
      [&] { return BenchThroughput(*loaded.runner, flags.throughput); },
      [&](const boost::json::object& figures) {
        PrintThroughput(loaded, flags.throughput, figures);
      });
}

}  // namespace

Command AddBenchLatency(CLI::App& app) {
  auto flags = std::make_shared<BenchFlags>();
  CLI::App* command = app.add_subcommand(
      "latency", "Time prefill and decode of one batch, beside the bytes that must be read");
  AddBenchFlags(*command, *flags);
  AddTimelineFlag(*command, flags->timeline);
  command
      ->add_option("--prefill-chunk", flags->latency.prefill_chunk,
                   "Prompt tokens of each sequence that a step takes; 0 = all at once")
      ->check(Quiet(CLI::NonNegativeNumber));
  return [flags] { return RunLatency(*flags); };
}

Command AddBenchKvCache(CLI::App& app) {
  auto flags = std::make_shared<BenchFlags>();
  flags->latency = {.batch = 8, .prompt_tokens = 128, .output_tokens = 50};
  CLI::App* command =
      app.add_subcommand("kv-cache", "Time the same generation with a KV cache and without one");
  AddBenchFlags(*command, *flags);
  return [flags] { return RunKvCache(*flags); };
}

Command AddBenchThroughput(CLI::App& app) {
  auto flags = std::make_shared<ThroughputFlags>();
  CLI::App* command = app.add_subcommand(
      "throughput", "Serve requests one after the other, then batched as they come");
  AddModelFlags(*command, flags->model);
  ThroughputOptions& options = flags->throughput;
  command->add_option("--num-prompts", options.prompts, "Requests of the batched run")
      ->check(Quiet(CLI::Range(1, 1 << 20)));
  command->add_option("--serial-prompts", options.serial_prompts, "Of them, run one by one")
      ->check(Quiet(CLI::Range(1, 1 << 20)));
  command->add_option("--input-len", options.prompt_tokens, "Prompt tokens a request")
      ->check(Quiet(CLI::Range(1, 1 << 20)));
  command->add_option("--output-len", options.output_tokens, "Tokens to make a request")
      ->check(Quiet(CLI::Range(2, 1 << 20)));
  command->add_option("--max-num-seqs", options.max_num_seqs, "Requests in flight at once")
      ->check(Quiet(CLI::Range(1, 4096)));
  command->add_option("--max-num-batched-tokens", options.max_num_batched_tokens, "Tokens a step")
      ->check(Quiet(CLI::Range(1, 1 << 20)));
  command->add_flag("--json", flags->json, "Print every figure as JSON");
  return [flags] { return RunThroughput(*flags); };
}

}  // namespace sluice
