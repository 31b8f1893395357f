#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/http_flags.h"
#include "cli/model_flags.h"
#include "cli/served_worker.h"
#include "cli/yaml_args.h"

namespace sluice {
namespace {

constexpr int kSuccess = 0;
constexpr int kFailed = 1;
constexpr int kWrongUsage = 2;

// Throws when something that was printed is lost, to a full disk say.
void CheckOutputWritten() {
  errno = 0;
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return;
  const std::string reason = errno == 0 ? "" : std::string(": ") + std::strerror(errno);
  throw Error(ErrorCode::kResourceExhausted,
              "standard output could not be written whole" + reason + "; what was printed is cut");
}

int Main(std::vector<std::string> arguments) {
  CLI::App app(
      "Sluice runs Mixture-of-Experts language models on the machine you have.\n"
      "With no model, commands use the embedded storyteller.\n"
      "Every flag can stand in a YAML file: --config FILE.",
      "sluice");
  app.set_version_flag("--version", SLUICE_VERSION);
  app.require_subcommand(1);
  app.fallthrough();
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  app.option_defaults()->always_capture_default();
  app.get_formatter()->column_width(34);
  app.get_formatter()->label("INT", "N");
  app.get_formatter()->label("UINT", "N");
  app.get_formatter()->label("FLOAT", "X");
  std::string log_level = "info";
  app.add_option("--log-level", log_level, "trace, debug, info, warning, error or off");
  std::string log_format = "text";
  app.add_option("--log-format", log_format, "text, or json: an object a line")
      ->check(Quiet(CLI::IsMember({"text", "json"})));

  CLI::App* bench = app.add_subcommand("bench", "Measure this engine on this machine");
  bench->require_subcommand(1);
  CLI::App* trace =
      app.add_subcommand("trace", "Record, look into, convert and make router traces");
  trace->require_subcommand(1);
  CLI::App* plan = app.add_subcommand("plan", "Work out what a machine can do, by arithmetic");
  plan->require_subcommand(1);
  CLI::App* study = app.add_subcommand("study", "Study routing, and run factorial studies");
  study->require_subcommand(1);
  const std::pair<CLI::App*, std::vector<std::pair<const char*, Command>>> groups[] = {
      {&app,
       {{"serve", AddServe(app)},
        {"run", AddRun(app)},
        {"chat", AddChat(app)},
        {"verify", AddVerify(app)},
        {"doctor", AddDoctor(app)},
        {"pull", AddPull(app)},
        {"profile", AddProfile(app)},
        {kWorkerCommand, AddWorker(app)}}},
      {bench,
       {{"latency", AddBenchLatency(*bench)},
        {"kv-cache", AddBenchKvCache(*bench)},
        {"throughput", AddBenchThroughput(*bench)},
        {"serve", AddBenchServe(*bench)},
        {"offload", AddBenchOffload(*bench)},
        {"kernels", AddBenchKernels(*bench)},
        {"attention", AddBenchAttention(*bench)},
        {"router", AddBenchRouter(*bench)}}},
      {trace,
       {{"record", AddTraceRecord(*trace)},
        {"info", AddTraceInfo(*trace)},
        {"convert", AddTraceConvert(*trace)},
        {"synth", AddTraceSynth(*trace)}}},
      {plan,
       {{"theory", AddPlanTheory(*plan)},
        {"offload", AddPlanOffload(*plan)},
        {"placement", AddPlanPlacement(*plan)},
        {"predict", AddPlanPredict(*plan)}}},
      {study,
       {{"load-balance", AddStudyLoadBalance(*study)},
        {"prefetch", AddStudyPrefetch(*study)},
        {"run", AddStudyRun(*study)}}}};

  try {
    arguments = ExpandConfigFile(std::move(arguments));
    std::reverse(arguments.begin(), arguments.end());  // CLI11 parses from the back
    app.parse(arguments);
  } catch (const CLI::ParseError& error) {
    if (app.exit(error) != 0) return kWrongUsage;
    CheckOutputWritten();
    return kSuccess;
  }
  InitLogging(log_level, app.got_subcommand(kWorkerCommand) ? "worker: " : "",
              log_format == "json" ? LogFormat::kJson : LogFormat::kText);
  for (const auto& [parent, commands] : groups) {
    for (const auto& [name, run] : commands) {
      if (!parent->got_subcommand(name)) continue;
      const int status = run();
      CheckOutputWritten();
      return status;
    }
  }
  return kWrongUsage;
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  try {
    std::vector<std::string> arguments(argv + 1, argv + argc);
    sluice::HideSecrets(argc, argv);
    return sluice::Main(std::move(arguments));
  } catch (const sluice::Error& error) {
    fmt::print(stderr, "sluice: {}\n", error.what());
    return error.code() == sluice::ErrorCode::kInvalidArgument ? sluice::kWrongUsage
                                                               : sluice::kFailed;
  } catch (const std::exception& error) {
    fmt::print(stderr, "sluice: unexpected error: {}\n", error.what());
    return sluice::kFailed;
  }
}
