#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <boost/json/array.hpp>
#include <charconv>
#include <cstdio>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/machine.h"
#include "bench/parts.h"
#include "bench/timing.h"
#include "cli/bench_report.h"
#include "cli/commands.h"
#include "cli/loaded_model.h"
#include "cli/model_flags.h"

namespace sluice {
namespace {

struct PartFlags {
  ModelFlags model;
  std::vector<int> tokens;
  std::vector<std::string> decode = {"1x1024", "1x16384", "8x4096", "64x4096", "64x16384"};
  std::vector<int> prefill = {512, 2048, 8192, 16384};
  bool json = false;
};

// The parts of a model, told row by row.
using TimeParts = std::function<void(const ModelSpec& spec, OpBench& bench, const OnPartRow&)>;

void PrintHead(const OpenedModel& model, const RunnerOptions& options,
               const MachineLimits& limits) {
  fmt::print("{} {} on {}: {}/s of memory, {:.3g} TFLOP/s\n", model.name, DTypeName(options.dtype),
             Machine(options), FormatBytes(static_cast<uint64_t>(limits.bytes_per_s)),
             limits.flops_per_s / 1e12);
  fmt::print("  {:<20}{:<42}{:>8}{:>10}{:>10}{:>11} {:<8}{:>11}{:>8}  {}\n", "", "", "experts",
             "bytes", "GFLOP", "floor us", "by", "us", "share", "rate");
}

void PrintRow(const PartRow& row, const MachineLimits& limits) {
  fmt::print("  {:<20}{:<42}", row.part, ShapeText(row));
  if (!row.left_out.empty()) {
    fmt::print("left out: {}\n", row.left_out);
    return;
  }
  const PartFloor floor = FloorOf(row, limits);
  const double seconds = Median(row.seconds);
  const bool memory = std::string_view(floor.bound) == "memory";
  fmt::print("{:>8}{:>10}{:>10.3g}{:>11.2f} {:<8}{:>11.2f}{:>7.1f}%  {}\n",
             row.distinct_experts ? fmt::format("{:.1f}", *row.distinct_experts) : "",
             FormatBytes(static_cast<uint64_t>(row.bytes)), row.flops / 1e9, floor.seconds * 1e6,
             floor.bound, seconds * 1e6, 100 * floor.seconds / seconds,
             memory ? fmt::format("{:.4g} GB/s", row.bytes / seconds / 1e9)
                    : fmt::format("{:.3g} TFLOP/s", row.flops / seconds / 1e12));
  std::fflush(stdout);  // the next may take a while
}

int RunParts(const PartFlags& flags, const TimeParts& time_parts) {
  ModelFlags asked = flags.model;
  asked.load_format = "dummy";  // shapes are all that is needed
  const OpenedModel model = OpenModel(asked);
  OpBench bench(ResolveRunnerOptions(model.spec, asked, {}));
  const auto benchmark = [&]() -> boost::json::object {
    const MachineLimits limits = MeasureLimits(bench);
    if (!flags.json) PrintHead(model, bench.options(), limits);
    boost::json::array rows;
    time_parts(model.spec, bench, [&](const PartRow& row) {
      if (!flags.json) PrintRow(row, limits);
      rows.push_back(ToJson(row, limits));
    });
    return {{"read_bandwidth_bytes_per_s", limits.bytes_per_s},
            {"flops_per_s", limits.flops_per_s},
            {"rows", std::move(rows)}};
  };
  // Rows were printed as they came.
  return ReportBench({.model = model,
                      .options = bench.options(),
                      .stream = bench.stream(),
                      .routing = "synthetic",
                      .random_weights = true},
                     flags.json, benchmark, [](const boost::json::object&) {});
}

// "8x4096": so many decoding sequences of so many positions.
AttentionCase ParseDecode(const std::string& text) {
  AttentionCase size;
  const char* end = text.data() + text.size();
  const auto [cross, error] = std::from_chars(text.data(), end, size.sequences);
  const bool both = error == std::errc() && cross != end && *cross == 'x';
  const auto [rest, rest_error] = both ? std::from_chars(cross + 1, end, size.context)
                                       : std::from_chars_result{cross, std::errc::invalid_argument};
  const bool whole = rest_error == std::errc() && rest == end;
  if (!whole || size.sequences < 1 || size.context < 1 || size.sequences > 4096 ||
      size.context > 1 << 20) {
    throw Error(ErrorCode::kInvalidArgument,
                "--decode " + text + ": expected SEQUENCESxCONTEXT, as 8x4096, up to 4096x1048576");
  }
  return size;
}

int RunAttention(const PartFlags& flags) {
  std::vector<AttentionCase> cases;
  for (const std::string& text : flags.decode) cases.push_back(ParseDecode(text));
  for (const int tokens : flags.prefill) cases.push_back({.queries = tokens, .context = tokens});
  return RunParts(flags, [&](const ModelSpec& spec, OpBench& bench, const OnPartRow& on_row) {
    TimeAttention(spec, bench, cases, on_row);
  });
}

using TimeOfTokens = void (*)(const ModelSpec& spec, OpBench& bench, std::span<const int> tokens,
                              const OnPartRow& on_row);

int RunTokens(const PartFlags& flags, TimeOfTokens time) {
  return RunParts(flags, [&](const ModelSpec& spec, OpBench& bench, const OnPartRow& on_row) {
    time(spec, bench, flags.tokens, on_row);
  });
}

CLI::App* AddPartCommand(CLI::App& app, const char* name, const char* description,
                         PartFlags& flags) {
  CLI::App* command = app.add_subcommand(name, description);
  AddModelFlags(*command, flags.model);
  command->add_flag("--json", flags.json, "Print every figure and the raw samples as JSON");
  return command;
}

void AddTokens(CLI::App& command, PartFlags& flags) {
  command.add_option("--tokens", flags.tokens, "Tokens of a step, one row or more for each")
      ->check(Quiet(CLI::Range(1, 1 << 16)))
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

}  // namespace

Command AddBenchRouter(CLI::App& app) {
  auto flags = std::make_shared<PartFlags>();
  flags->tokens = {1, 8, 64, 512, 8192};
  CLI::App* command = AddPartCommand(
      app, "router", "Time the choice of experts, alone and with the norm and product before it",
      *flags);
  AddTokens(*command, *flags);
  return [flags] { return RunTokens(*flags, TimeRouter); };
}

Command AddBenchKernels(CLI::App& app) {
  auto flags = std::make_shared<PartFlags>();
  flags->tokens = {1, 8, 32, 64, 128, 512, 2048};
  CLI::App* command = AddPartCommand(
      app, "kernels", "Time a layer's norm, products and experts under even and uneven routing",
      *flags);
  AddTokens(*command, *flags);
  return [flags] { return RunTokens(*flags, TimeKernels); };
}

Command AddBenchAttention(CLI::App& app) {
  auto flags = std::make_shared<PartFlags>();
  CLI::App* command = AddPartCommand(
      app, "attention", "Time attention over a layer's pages, decoding and in prefills", *flags);
  command
      ->add_option("--decode", flags->decode,
                   "Decoding sequences and the positions of each, as 8x4096")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command->add_option("--prefill", flags->prefill, "Tokens of a prompt")
      ->check(Quiet(CLI::Range(1, 1 << 20)))
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  return [flags] { return RunAttention(*flags); };
}

}  // namespace sluice
