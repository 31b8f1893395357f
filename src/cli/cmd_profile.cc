#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <boost/json/serialize.hpp>
#include <fstream>
#include <memory>

#include "base/error.h"
#include "base/machine.h"
#include "bench/layer_profile.h"
#include "bench/machine_profile.h"
#include "cli/commands.h"
#include "cli/loaded_model.h"
#include "cli/model_flags.h"

namespace sluice {
namespace {

struct ProfileFlags {
  ModelFlags model;
  std::string name = "this-machine";
  std::string disk_dir = ".";
  std::string out;
  int rows = 1;
  int context = 512;
  bool json = false;
};

void PrintFigure(const ProfileFigure& figure, double value) {
  const std::string key = figure.key;
  std::string text;
  if (key == "memory_bytes") {
    text = FormatBytes(static_cast<uint64_t>(value));
  } else if (key.find("flops") != std::string::npos) {
    text = fmt::format("{:.3g} TFLOP/s", value / 1e12);
  } else {
    text = FormatBytes(static_cast<uint64_t>(value)) + "/s";
  }
  fmt::print("  {:<30} {:>14}\n", figure.Name(), text);
}

void PrintLayer(const LayerLatencies& layer) {
  fmt::print("one layer of {} in {}, {} rows that see {} positions, an expert with {} of them\n",
             layer.model, layer.dtype, layer.rows, layer.context, layer.expert_rows);
  fmt::print("  {:<12} {:>14}  {:>14}\n", "", "compute us", "bring us");
  const auto row = [](const char* part, double compute_s, double load_s) {
    fmt::print("  {:<12} {:>14.2f}  {:>14.2f}\n", part, 1e6 * compute_s, 1e6 * load_s);
  };
  row("attention", layer.attention_s, layer.attention_load_s);
  row("gate", layer.gate_s, layer.gate_load_s);
  row("one expert", layer.expert_s, layer.expert_load_s);
  fmt::print("weights brought from {}\n", layer.copied);
}

void WriteProfile(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text << '\n';
  file.close();
  if (!file) throw Error(ErrorCode::kResourceExhausted, path + ": cannot be written");
}

int RunProfile(const ProfileFlags& flags) {
  ModelFlags asked = flags.model;
  asked.load_format = "dummy";  // shapes are all that is needed
  const OpenedModel model = OpenModel(asked);
  const RunnerOptions options = ResolveRunnerOptions(model.spec, asked, {});
  HardwareProfile profile = MeasureMachine({.name = flags.name,
                                            .num_threads = options.num_threads,
                                            .tier = options.tier,
                                            .cuda = options.cuda,
                                            .disk_dir = flags.disk_dir});
  if (model.spec.NumMoeLayers() > 0) {
    profile.layer = MeasureLayer(model.spec, model.name, options, flags.rows, flags.context);
  }
  const std::string text = boost::json::serialize(ToJson(profile));
  if (!flags.out.empty()) WriteProfile(flags.out, text);
  if (flags.json) {
    fmt::print("{}\n", text);
    return 0;
  }
  fmt::print("{}: {}\n", profile.name, profile.source);
  for (const ProfileFigure& figure : ProfileFigures()) {
    if (profile.*figure.value) PrintFigure(figure, *(profile.*figure.value));
  }
  if (profile.layer) {
    PrintLayer(*profile.layer);
  } else {
    fmt::print("{} has no experts, and so no latencies of them\n", model.name);
  }
  return 0;
}

}  // namespace

Command AddProfile(CLI::App& app) {
  auto flags = std::make_shared<ProfileFlags>();
  CLI::App* command = app.add_subcommand(
      "profile", "Measure this machine, and what one layer of a model takes on it, for 'plan'");
  AddModelFlags(*command, flags->model);
  command->add_option("--rows", flags->rows, "Decoded tokens of the step that is timed")
      ->check(Quiet(CLI::Range(1, 4096)));
  command->add_option("--context", flags->context, "Positions that each of them sees")
      ->check(Quiet(CLI::Range(1, 1 << 20)));
  command->add_option("--name", flags->name, "Name that the profile gets");
  command->add_option("--disk-dir", flags->disk_dir,
                      "Folder of the disk that is read; empty = leave the disk out");
  command->add_option("--out", flags->out, "Write the profile's JSON to this file");
  command->add_flag("--json", flags->json, "Print the profile's JSON");
  return [flags] { return RunProfile(*flags); };
}

}  // namespace sluice
