#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <boost/json/serialize.hpp>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/model_flags.h"
#include "study/study_runner.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

struct StudyRunFlags {
  std::string file;
  std::string out;
  bool dry_run = false;
  bool retry_failed = false;
  int max_runs = 0;
  bool json = false;
};

StudyPlan ReadStudy(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::error_code ignored;
  if (!file || fs::is_directory(path, ignored)) {
    throw Error(ErrorCode::kNotFound,
                path + ": cannot be read; expected a study, as those in configs/studies");
  }
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  return ParseStudy(text, path);
}

fs::path ResultsOf(const StudyRunFlags& flags, const StudyPlan& plan) {
  if (!flags.out.empty()) return flags.out;
  const char* root = std::getenv("RESULTS_DIR");
  return fs::path(root == nullptr || *root == '\0' ? "results" : root) / plan.name;
}

std::string LevelText(const FactorLevel& level) {
  return level.value.is_string() ? std::string(level.value.as_string())
                                 : json::serialize(level.value);
}

void PrintDesign(const StudyPlan& plan) {
  const FactorialDesign& design = plan.design;
  fmt::print("{}: {}\n", plan.name, fmt::join(plan.command, " "));
  for (const Factor& factor : design.factors) {
    std::string levels;
    for (const FactorLevel& level : factor.levels) {
      levels += (levels.empty() ? "" : ", ") + LevelText(level);
    }
    fmt::print("  {:<24} {}\n", factor.name, levels);
  }
  if (design.generators.empty()) {
    fmt::print("full factorial design of {} points", design.points.size());
  } else {
    fmt::print("fraction 1/{} of {} points, resolution {} ({} constant)",
               1 << design.generators.size(), design.points.size(), design.resolution,
               fmt::join(design.defining_words, ", "));
  }
  fmt::print(", {} repeat{}: {} runs in an order drawn from seed {}\n", plan.repeats,
             plan.repeats == 1 ? "" : "s", design.points.size() * plan.repeats, plan.seed);
  for (const std::string& alias : Aliases(design)) fmt::print("  not told apart: {}\n", alias);
}

int DryRun(const StudyPlan& plan) {
  PrintDesign(plan);
  int run = 0;
  for (const PlannedRun& planned : RandomOrder(plan.design, plan.repeats, plan.seed)) {
    fmt::print("{:>5}  sluice {}\n", ++run, fmt::join(RunArguments(plan, planned.point), " "));
  }
  return 0;
}

void PrintTable(const StudyPlan& plan, const std::vector<PointSummary>& points) {
  for (const Factor& factor : plan.design.factors) fmt::print("{:>18}  ", factor.name);
  fmt::print("{:>4}  {:>6}", "runs", "failed");
  for (const std::string& response : plan.responses) fmt::print("  {:>28}", response);
  fmt::print("\n");
  for (const PointSummary& point : points) {
    const std::vector<int>& levels = plan.design.points[point.point];
    for (size_t f = 0; f < levels.size(); ++f) {
      fmt::print("{:>18}  ", LevelText(plan.design.factors[f].levels[levels[f]]));
    }
    fmt::print("{:>4}  {:>6}", point.runs, point.failed);
    for (size_t r = 0; r < plan.responses.size(); ++r) {
      const std::string text =
          point.runs == 0 ? "" : fmt::format("{:.5g} +- {:.2g}", point.mean[r], point.deviation[r]);
      fmt::print("  {:>28}", text);
    }
    fmt::print("\n");
  }
}

json::object Report(const StudyPlan& plan, const fs::path& dir,
                    const std::vector<StudyRecord>& records) {
  json::array points;
  for (const PointSummary& point : Summarize(plan, records)) {
    json::object levels;
    for (size_t f = 0; f < plan.design.factors.size(); ++f) {
      const Factor& factor = plan.design.factors[f];
      levels[factor.name] = factor.levels[plan.design.points[point.point][f]].value;
    }
    points.push_back({{"factors", std::move(levels)},
                      {"runs", point.runs},
                      {"failed", point.failed},
                      {"mean", json::array(point.mean.begin(), point.mean.end())},
                      {"deviation", json::array(point.deviation.begin(), point.deviation.end())}});
  }
  return {{"study", ToJson(plan)},
          {"results", dir.string()},
          {"records", records.size()},
          {"points", std::move(points)}};
}

int RunStudyCommand(const StudyRunFlags& flags) {
  const StudyPlan plan = ReadStudy(flags.file);
  if (flags.dry_run) return DryRun(plan);
  const fs::path dir = ResultsOf(flags, plan);
  if (!flags.json) PrintDesign(plan);
  const size_t runs = plan.design.points.size() * plan.repeats;
  const auto done = [&](const StudyRecord& record) {
    fmt::print(stderr, "run {} of {}: {} in {:.1f} s{}{}\n", record.run + 1, runs, record.status,
               record.seconds, record.error.empty() ? "" : ": ", record.error);
  };
  const std::vector<StudyRecord> records =
      RunStudy(plan,
               {.dir = dir,
                .program = fs::read_symlink("/proc/self/exe").string(),
                .retry_failed = flags.retry_failed,
                .max_runs = flags.max_runs},
               done);
  size_t failed = 0;
  for (const StudyRecord& record : records) failed += record.status == "ok" ? 0 : 1;
  if (flags.json) {
    fmt::print("{}\n", json::serialize(Report(plan, dir, records)));
  } else {
    PrintTable(plan, Summarize(plan, records));
    fmt::print("{} of {} runs recorded, {} failed; results in {}\n", records.size(), runs, failed,
               dir.string());
  }
  return failed == 0 ? 0 : 1;
}

}  // namespace

Command AddStudyRun(CLI::App& app) {
  auto flags = std::make_shared<StudyRunFlags>();
  CLI::App* command = app.add_subcommand(
      "run", "Run a factorial study of this binary's commands; goes on where it was stopped");
  command->add_option("file", flags->file, "YAML file, as those in configs/studies")->required();
  command->add_option(
      "--out", flags->out,
      "Folder of the results; default: the study's name under RESULTS_DIR, or under "
      "results/");
  command->add_flag("--dry-run", flags->dry_run, "Print the design and every run, and run nothing");
  command->add_flag("--retry-failed", flags->retry_failed, "Run again what failed before");
  command->add_option("--max-runs", flags->max_runs, "Stop after so many runs; 0 = none left")
      ->check(Quiet(CLI::NonNegativeNumber));
  command->add_flag("--json", flags->json, "Print the table as JSON");
  return [flags] { return RunStudyCommand(*flags); };
}

}  // namespace sluice
