#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <filesystem>
#include <memory>

#include "base/error.h"
#include "base/machine.h"
#include "cli/commands.h"
#include "cli/trace_flags.h"
#include "trace/synthesize.h"
#include "trace/trace_csv.h"
#include "trace/trace_summary.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

struct InfoFlags {
  std::string trace;
  bool json = false;
};

int RunInfo(const InfoFlags& flags) {
  RouterTraceReader reader(flags.trace);
  const RouterTraceHeader& header = reader.header();
  const TraceSummary summary = SummarizeTrace(reader);
  const uint64_t bytes = fs::file_size(flags.trace);
  if (flags.json) {
    fmt::print("{}\n",
               json::serialize(json::object{{"model", header.model},
                                            {"layers", header.num_layers},
                                            {"experts", header.num_experts},
                                            {"top_k", header.top_k},
                                            {"seed", header.seed},
                                            {"source", header.source},
                                            {"bytes", bytes},
                                            {"records", summary.records},
                                            {"steps", summary.steps},
                                            {"first_step", summary.first_step},
                                            {"last_step", summary.last_step},
                                            {"sequences", summary.sequences},
                                            {"more_sequences", summary.more_sequences},
                                            {"routed_layers", summary.layers},
                                            {"last_position", summary.last_position},
                                            {"tokens_per_step", summary.tokens_per_step},
                                            {"most_tokens", summary.most_tokens},
                                            {"experts_per_step", summary.experts_per_step}}));
    return 0;
  }
  fmt::print("{}: {} of {} experts in {} of {} layers, routed by {}, seed {}\n", header.model,
             header.top_k, header.num_experts, summary.layers, header.num_layers, header.source,
             header.seed);
  fmt::print("  records      {}, {}\n", summary.records, FormatBytes(bytes));
  fmt::print("  steps        {}, {} to {}\n", summary.steps, summary.first_step, summary.last_step);
  fmt::print("  sequences    {}{}, positions to {}\n", summary.sequences,
             summary.more_sequences ? " and more" : "", summary.last_position);
  fmt::print("  tokens       {:.1f} a step, {} at most\n", summary.tokens_per_step,
             summary.most_tokens);
  fmt::print("  experts      {:.1f} different ones a step and layer\n", summary.experts_per_step);
  return 0;
}

struct ConvertFlags {
  std::string from;
  std::string to;
};

bool IsCsv(const std::string& name) {
  return fs::path(name).extension() == ".csv";
}

int RunConvert(const ConvertFlags& flags) {
  if (IsCsv(flags.from) == IsCsv(flags.to)) {
    throw Error(ErrorCode::kInvalidArgument,
                "one of the two files is a trace and the other is CSV, named .csv; got '" +
                    flags.from + "' and '" + flags.to + "'");
  }
  if (IsCsv(flags.from)) {
    CsvToTrace(flags.from, flags.to);
  } else {
    TraceToCsv(flags.from, flags.to);
  }
  return 0;
}

struct SynthFlags {
  std::string path;
  SyntheticFlags synthetic;
};

int RunSynth(const SynthFlags& flags) {
  SynthesizeTrace(ParseSynthetic(flags.synthetic.source), flags.synthetic.run, flags.path);
  return 0;
}

}  // namespace

Command AddTraceInfo(CLI::App& app) {
  auto flags = std::make_shared<InfoFlags>();
  CLI::App* command = app.add_subcommand("info", "Say what a router trace holds");
  command->add_option("trace", flags->trace, "A trace, as --router-trace writes it")->required();
  command->add_flag("--json", flags->json, "Print every figure as JSON");
  return [flags] { return RunInfo(*flags); };
}

Command AddTraceConvert(CLI::App& app) {
  auto flags = std::make_shared<ConvertFlags>();
  CLI::App* command =
      app.add_subcommand("convert", "Turn a router trace into CSV, or CSV into one");
  command->add_option("from", flags->from, "The file to read; CSV when it is named .csv")
      ->required();
  command->add_option("to", flags->to, "The file to write; CSV when it is named .csv")->required();
  return [flags] { return RunConvert(*flags); };
}

Command AddTraceSynth(CLI::App& app) {
  auto flags = std::make_shared<SynthFlags>();
  CLI::App* command = app.add_subcommand(
      "synth", "Write the trace of a run whose experts are drawn from a distribution");
  command->add_option("trace", flags->path, "The file to write")->required();
  AddSyntheticFlags(*command, flags->synthetic)->required();
  return [flags] { return RunSynth(*flags); };
}

}  // namespace sluice
