#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json/serialize.hpp>
#include <functional>
#include <memory>
#include <utility>

#include "base/machine.h"
#include "bench/latency.h"
#include "bench/throughput.h"
#include "cli/commands.h"
#include "cli/loaded_model.h"
#include "cli/model_flags.h"
#include "device/device_monitor.h"

namespace sluice {
namespace {

struct BenchFlags {
  ModelFlags model;
  LatencyOptions latency;
  int max_num_batched_tokens = 8192;
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
  OpenedModel model;
  std::unique_ptr<ModelRunner> runner;
};

Loaded Load(const BenchFlags& flags) {
  Loaded loaded{.model = OpenModel(flags.model)};
  RunnerOptions options = ResolveRunnerOptions(loaded.model.spec, flags.model, {});
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

// What ran, where: at the head of every result.
boost::json::object Describe(const Loaded& loaded, const ModelFlags& flags) {
  const RunnerOptions& options = loaded.runner->options();
  return {{"model", loaded.model.name},
          {"random_weights", loaded.model.random_weights},
          {"routing", flags.routing},
          {"dtype", DTypeName(options.dtype)},
          {"device", options.cuda.has_value() ? FindCudaDevice(*options.cuda).name : "cpu"},
          {"cpu", CpuModelName()},
          {"cpu_tier", CpuTierName(options.tier)},
          {"threads", options.num_threads}};
}

std::string Machine(const RunnerOptions& options) {
  if (options.cuda.has_value()) return FindCudaDevice(*options.cuda).name;
  return fmt::format("{} threads ({})", options.num_threads, CpuTierName(options.tier));
}

// Runs a benchmark and returns what it gives, on a GPU with the samples of the driver's management
// library taken meanwhile.
boost::json::object Watched(ModelRunner& runner,
                            const std::function<boost::json::object()>& benchmark) {
  if (runner.stream() == nullptr) return benchmark();
  DeviceMonitor monitor(runner.stream()->device().pci_bus_id);
  boost::json::object figures = benchmark();
  boost::json::array samples;
  for (const DeviceSample& sample : monitor.Stop()) {
    samples.push_back({{"seconds", sample.seconds},
                       {"memory_bytes", sample.memory_bytes},
                       {"compute_percent", sample.compute_percent},
                       {"memory_percent", sample.memory_percent},
                       {"watts", sample.watts},
                       {"clock_mhz", sample.clock_mhz}});
  }
  figures["device_samples"] = std::move(samples);
  return figures;
}

int RunLatency(const BenchFlags& flags) {
  const Loaded loaded = Load(flags);
  boost::json::object result = Describe(loaded, flags.model);
  const boost::json::object figures =
      Watched(*loaded.runner, [&] { return BenchLatency(*loaded.runner, flags.latency); });
  result.insert(figures.begin(), figures.end());
  if (flags.json) {
    fmt::print("{}\n", boost::json::serialize(result));
    return 0;
  }
  const auto number = [&](const char* key) { return figures.at(key).to_number<double>(); };
  fmt::print("{} {} on {}, batch {}, {} in, {} out{}\n", loaded.model.name,
             result["dtype"].as_string().c_str(), Machine(loaded.runner->options()),
             flags.latency.batch, flags.latency.prompt_tokens, flags.latency.output_tokens,
             loaded.model.random_weights ? ", random weights" : "");
  fmt::print("  TTFT                 {:10.3f} ms   {:.0f} prompt tok/s\n", number("ttft_ms"),
             number("prefill_tokens_per_s"));
  fmt::print("  TPOT                 {:10.3f} ms   {:.1f} tok/s\n", number("tpot_ms"),
             number("decode_tokens_per_s"));
  fmt::print(
      "  floor                {:10.3f} ms   {} a step at {}/s read from where so much lies\n",
      number("floor_ms"), FormatBytes(static_cast<uint64_t>(number("decode_step_bytes"))),
      FormatBytes(static_cast<uint64_t>(number("read_bandwidth_bytes_per_s"))));
  fmt::print("  share of floor       {:10.1f} %    {:.1f} distinct experts a layer\n",
             100 * number("share_of_floor"), number("distinct_experts_per_layer"));
  return 0;
}

int RunKvCache(const BenchFlags& flags) {
  const Loaded loaded = Load(flags);
  boost::json::object result = Describe(loaded, flags.model);
  const boost::json::object figures = BenchKvCache(*loaded.runner, flags.latency);
  result.insert(figures.begin(), figures.end());
  if (flags.json) {
    fmt::print("{}\n", boost::json::serialize(result));
    return 0;
  }
  const auto number = [&](const char* key) { return figures.at(key).to_number<double>(); };
  fmt::print("{}, batch {}, {} in, {} out, {} tokens both times\n", loaded.model.name,
             flags.latency.batch, flags.latency.prompt_tokens, flags.latency.output_tokens,
             result["same_tokens"].as_bool() ? "the same" : "not the same");
  fmt::print("  with a KV cache      {:10.1f} ms   {:.1f} tok/s   TTFT {:.2f} ms\n",
             number("with_cache_ms"), number("with_cache_tokens_per_s"), number("ttft_ms"));
  fmt::print("  without              {:10.1f} ms   {:.1f} tok/s\n", number("without_cache_ms"),
             number("without_cache_tokens_per_s"));
  fmt::print("  ratio                {:10.2f}\n", number("ratio"));
  return 0;
}

struct ThroughputFlags {
  ModelFlags model;
  ThroughputOptions throughput;
  bool json = false;
};

int RunThroughput(const ThroughputFlags& flags) {
  const ThroughputOptions& throughput = flags.throughput;
  Loaded loaded{.model = OpenModel(flags.model)};
  RunnerOptions options = ResolveRunnerOptions(loaded.model.spec, flags.model, {});
  const int positions = throughput.prompt_tokens + throughput.output_tokens;
  options.num_pages = throughput.max_num_seqs * (positions / options.page_size + 1);
  options.max_model_len = std::min(options.max_model_len, positions);
  options.max_sequences = throughput.max_num_seqs;
  options.max_step_rows = std::max(throughput.max_num_batched_tokens, throughput.max_num_seqs);
  loaded.runner = LoadRunner(loaded.model, flags.model, options);
  boost::json::object result = Describe(loaded, flags.model);
  const boost::json::object figures =
      Watched(*loaded.runner, [&] { return BenchThroughput(*loaded.runner, throughput); });
  result.insert(figures.begin(), figures.end());
  if (flags.json) {
    fmt::print("{}\n", boost::json::serialize(result));
    return 0;
  }
  fmt::print("{} {} on {}, {} in, {} out{}\n", loaded.model.name,
             result["dtype"].as_string().c_str(), Machine(loaded.runner->options()),
             throughput.prompt_tokens, throughput.output_tokens,
             loaded.model.random_weights ? ", random weights" : "");
  fmt::print("  {:14}{:>10}{:>14}{:>14}{:>14}{:>14}{:>14}\n", "", "requests", "output tok/s",
             "total tok/s", "P50 a token", "P99 a token", "memory");
  for (const char* mode : {"serial", "batched"}) {
    const boost::json::object& run = figures.at(mode).as_object();
    const auto number = [&](const char* key) { return run.at(key).to_number<double>(); };
    fmt::print("  {:14}{:>10}{:>14.1f}{:>14.1f}{:>11.2f} ms{:>11.2f} ms{:>14}\n", mode,
               number("prompts"), number("output_tokens_per_s"), number("total_tokens_per_s"),
               number("token_p50_ms"), number("token_p99_ms"),
               FormatBytes(static_cast<uint64_t>(number("memory_bytes"))));
  }
  fmt::print("  batched / serial {:.2f}x, {} sequences at once\n", figures.at("ratio").as_double(),
             throughput.max_num_seqs);
  return 0;
}

}  // namespace

Command AddBenchLatency(CLI::App& app) {
  auto flags = std::make_shared<BenchFlags>();
  CLI::App* command = app.add_subcommand(
      "latency", "Time prefill and decode of one batch, beside the bytes that must be read");
  AddBenchFlags(*command, *flags);
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
