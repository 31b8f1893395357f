#include "cli/yaml_args.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>

#include "base/error.h"
#include "checkpoint/yaml.h"

namespace sluice {
namespace {

// Where the file's flags go: right behind the subcommand, so that what stands on the command line
// is read later and wins.
size_t BehindSubcommand(const std::vector<std::string>& arguments) {
  size_t at = 0;
  while (at < arguments.size() && arguments[at].starts_with('-')) {
    at += arguments[at] == "--log-level" ? 2 : 1;
  }
  const bool nested = at < arguments.size() && arguments[at] == "bench";
  return std::min(arguments.size(), at + (nested ? 2 : 1));
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::error_code ignored;
  if (!file || std::filesystem::is_directory(path, ignored)) {
    throw Error(ErrorCode::kNotFound, "cannot read the file '" + path + "' given with --config");
  }
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace

std::vector<std::string> FlagsFromYaml(std::string_view text, const std::string& origin) {
  const YAML::Node root = LoadYaml(text, origin);
  if (!root.IsMap() && !root.IsNull()) {
    throw Error(ErrorCode::kInvalidArgument,
                origin + ": should be a map of flags, as in 'max-num-seqs: 8'");
  }
  std::vector<std::string> flags;
  for (const auto& entry : root) AppendYamlFlag(entry.first.Scalar(), entry.second, flags);
  return flags;
}

std::vector<std::string> ExpandConfigFile(std::vector<std::string> arguments) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    std::optional<std::string> path;
    size_t taken = 1;
    if (arguments[i] == "--config") {
      if (i + 1 == arguments.size()) {
        throw Error(ErrorCode::kInvalidArgument, "--config needs a file");
      }
      path = arguments[i + 1];
      taken = 2;
    } else if (arguments[i].starts_with("--config=")) {
      path = arguments[i].substr(std::string("--config=").size());
    }
    if (!path.has_value()) continue;
    const std::vector<std::string> flags = FlagsFromYaml(ReadFile(*path), *path);
    arguments.erase(arguments.begin() + static_cast<std::ptrdiff_t>(i),
                    arguments.begin() + static_cast<std::ptrdiff_t>(i + taken));
    const size_t at = BehindSubcommand(arguments);
    arguments.insert(arguments.begin() + static_cast<std::ptrdiff_t>(at), flags.begin(),
                     flags.end());
    return arguments;
  }
  return arguments;
}

}  // namespace sluice
