#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>

#include "base/error.h"
#include "base/machine.h"
#include "cli/commands.h"
#include "cli/embedded_model.h"
#include "cli/model_flags.h"
#include "hub/hub_client.h"
#include "hub/model_groups.h"
#include "hub/model_places.h"
#include "hub/pull.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

struct PullFlags {
  std::string target;  // ORG/NAME or a group
  std::string group;
  bool list = false;
  std::string revision = "main";
  std::vector<std::string> include;
  std::vector<std::string> exclude;
  std::string endpoint;
  std::string token;
  std::string local_dir;
  int max_workers = 8;
  int max_retries = 5;
  double timeout = 30;
  bool json = false;
};

// HF_TOKEN, or the file where huggingface_hub's login leaves one.
std::optional<std::string> TokenFromEnvironment() {
  if (auto token = Environment("HF_TOKEN")) return token;
  fs::path file;
  if (const auto path = Environment("HF_TOKEN_PATH")) {
    file = *path;
  } else if (const auto home = HubHomeFromEnvironment()) {
    file = *home / "token";
  }
  std::string token;
  if (!file.empty() && std::ifstream(file) >> token) return token;
  return std::nullopt;
}

HubClient MakeClient(const PullFlags& flags) {
  HubClient::Options options;
  options.user_agent = std::string("sluice/") + SLUICE_VERSION;
  if (const auto endpoint = Environment("HF_ENDPOINT")) options.endpoint = *endpoint;
  if (!flags.endpoint.empty()) options.endpoint = flags.endpoint;
  options.token = flags.token.empty() ? TokenFromEnvironment() : flags.token;
  options.timeout = std::chrono::milliseconds(static_cast<int64_t>(flags.timeout * 1000));
  options.max_retries = flags.max_retries;
  return HubClient(options);
}

PullOptions OptionsFor(const std::string& name, const PullFlags& flags) {
  PullOptions options{.name = name,
                      .revision = flags.revision,
                      .include = flags.include,
                      .exclude = flags.exclude,
                      .local_dir = flags.local_dir,
                      .max_workers = flags.max_workers};
  if (!options.local_dir.empty()) return options;
  const ModelPlaces places = ModelPlacesFromEnvironment();
  const std::optional<fs::path> root = places.model_dir ? places.model_dir : places.hub_cache;
  if (!root) {
    throw Error(ErrorCode::kInvalidArgument,
                "nowhere to put a model: set MODEL_DIR, or name a folder with --local-dir");
  }
  options.cache_dir = *root;
  return options;
}

// One line on standard error: rewritten in place on a terminal, else a line each tenth.
OnPullProgress ShowProgress() {
  const bool terminal = isatty(STDERR_FILENO) != 0;
  struct State {
    Clock::time_point start = Clock::now();
    Clock::time_point shown;
    uint64_t bytes_at_start = 0;
    uint64_t tenth = 0;
    bool begun = false;
  };
  return [terminal, state = std::make_shared<State>()](const PullProgress& progress) {
    const Clock::time_point now = Clock::now();
    const uint64_t total = std::max<uint64_t>(progress.bytes_total, 1);
    const bool done = progress.files_done == progress.files_total;
    const uint64_t tenth = progress.bytes_done * 10 / total;
    const bool due = terminal ? now - state->shown > std::chrono::milliseconds(200) || done
                              : tenth != state->tenth || !state->begun;
    if (!due) return;
    state->begun = true;
    state->shown = now;
    state->tenth = tenth;
    const double seconds = std::chrono::duration<double>(now - state->start).count();
    const std::string line =
        fmt::format("pulling {}: {} of {} files, {} of {} ({} %), {}/s", progress.model,
                    progress.files_done, progress.files_total, FormatBytes(progress.bytes_done),
                    FormatBytes(progress.bytes_total), progress.bytes_done * 100 / total,
                    FormatBytes(static_cast<uint64_t>(static_cast<double>(progress.bytes_done) /
                                                      std::max(seconds, 0.001))));
    if (terminal) {
      fmt::print(stderr, "\r{:<78}{}", line, done ? "\n" : "");
      std::fflush(stderr);
    } else {
      spdlog::info("{}", line);
    }
  };
}

int List(const std::vector<ModelGroup>& groups, bool json) {
  const ModelPlaces places = ModelPlacesFromEnvironment();
  const auto is_here = [&places](const std::string& name) {
    try {
      FindModel(name, "", places);
      return true;
    } catch (const Error&) {
      return false;
    }
  };
  boost::json::array all;
  for (const ModelGroup& group : groups) {
    boost::json::array models;
    if (!json) fmt::print("{}: {}\n", group.name, group.about);
    for (const ModelGroup::Model& model : group.models) {
      const bool here = is_here(model.name);
      if (!json) {
        fmt::print("  {:<40} {:>6.1f} GB{}\n", model.name, model.gigabytes,
                   here ? "  here already" : "");
      }
      models.push_back({{"name", model.name}, {"gigabytes", model.gigabytes}, {"here", here}});
    }
    all.push_back({{"group", group.name}, {"about", group.about}, {"models", std::move(models)}});
  }
  if (json) fmt::print("{}\n", boost::json::serialize(all));
  return 0;
}

// The models that the arguments name.
std::vector<std::string> Targets(const PullFlags& flags, const std::vector<ModelGroup>& groups) {
  const std::string& asked = flags.group.empty() ? flags.target : flags.group;
  if (!flags.group.empty() && !flags.target.empty()) {
    throw Error(ErrorCode::kInvalidArgument, "pull takes one model or one group, not '" +
                                                 flags.target + "' and --group " + flags.group);
  }
  if (const ModelGroup* group = FindGroup(groups, asked)) {
    if (!flags.local_dir.empty()) {
      throw Error(ErrorCode::kInvalidArgument,
                  "--local-dir holds one model; set MODEL_DIR to choose where a group goes");
    }
    std::vector<std::string> names;
    for (const ModelGroup::Model& model : group->models) names.push_back(model.name);
    return names;
  }
  if (!flags.group.empty()) {
    throw Error(ErrorCode::kInvalidArgument,
                "there is no group '" + flags.group + "': `sluice pull --list` shows them");
  }
  if (!IsModelName(asked) || asked.find('/') == std::string::npos) {
    throw Error(
        ErrorCode::kInvalidArgument,
        "'" + asked + "' is neither ORG/NAME nor a group: `sluice pull --list` shows the groups");
  }
  return {asked};
}

int RunPull(const PullFlags& flags) {
  const std::vector<ModelGroup> groups = ParseModelGroups(EmbeddedGroups(), "groups.yaml");
  if (flags.list) return List(groups, flags.json);
  const std::vector<std::string> names = Targets(flags, groups);
  const HubClient client = MakeClient(flags);
  for (const std::string& name : names) {
    const PullResult result = Pull(client, OptionsFor(name, flags), ShowProgress());
    if (flags.json) {
      fmt::print("{}\n", boost::json::serialize(
                             boost::json::object{{"model", name},
                                                 {"commit", result.commit},
                                                 {"folder", result.dir.string()},
                                                 {"files", result.files},
                                                 {"bytes", result.bytes},
                                                 {"bytes_fetched", result.bytes_fetched}}));
    } else {
      fmt::print("{} is in {}\n", name, result.dir.string());
    }
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace

Command AddPull(CLI::App& app) {
  auto flags = std::make_shared<PullFlags>();
  CLI::App* command = app.add_subcommand(
      "pull", "Fetch a model from a Hugging Face hub, to MODEL_DIR or else the hub's cache");
  command->add_option("target", flags->target, "ORG/NAME, or a group of models");
  command->add_option("--group", flags->group, "A group of models, as --list shows them");
  command->add_flag("--list", flags->list, "Show the groups and what is here already");
  command->add_option("--revision", flags->revision, "Branch, tag or commit");
  command
      ->add_option("--include", flags->include,
                   "Only files of this pattern, as '*.json', instead of those the engine reads; "
                   "may be given several times")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false)
      ->default_str("");
  command
      ->add_option("--exclude", flags->exclude,
                   "No files of this pattern; may be given several times")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false)
      ->default_str("");
  command->add_option("--endpoint", flags->endpoint,
                      "Address of the hub; default: HF_ENDPOINT, else https://huggingface.co");
  command->add_option("--token", flags->token,
                      "Access token; default: HF_TOKEN, which other users cannot see in the list "
                      "of processes");
  command->add_option("--local-dir", flags->local_dir,
                      "Put plain files into this folder instead of the cache's layout");
  command->add_option("--max-workers", flags->max_workers, "Files fetched at once")
      ->check(Quiet(CLI::Range(1, 64)));
  command
      ->add_option("--max-retries", flags->max_retries,
                   "Failures in a row of one file that are waited out")
      ->check(Quiet(CLI::Range(0, 1000)));
  command->add_option("--timeout", flags->timeout, "Seconds to wait for the next byte")
      ->check(Quiet(CLI::Range(0.1, 3600.0)));
  command->add_flag("--json", flags->json, "Print the result as JSON, a line for each model");
  return [flags] { return RunPull(*flags); };
}

}  // namespace sluice
