#include "cli/yaml_args.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <optional>

#include "base/error.h"

namespace sluice {
namespace {

// YAML in flow style with quoted strings is JSON as far as flags need it.
std::string ToJsonText(const YAML::Node& node) {
  YAML::Emitter emitter;
  emitter.SetMapFormat(YAML::Flow);
  emitter.SetSeqFormat(YAML::Flow);
  emitter.SetStringFormat(YAML::DoubleQuoted);
  emitter << node;
  return emitter.c_str();
}

// yaml-cpp gives quoted scalars the tag "!": they are strings whatever they spell.
bool IsQuoted(const YAML::Node& value) {
  return value.Tag() == "!";
}

void AppendFlag(const std::string& key, const YAML::Node& value, std::vector<std::string>& out) {
  const std::string flag = "--" + key;
  if (value.IsSequence()) {
    for (const YAML::Node& element : value) AppendFlag(key, element, out);
  } else if (value.IsMap()) {
    out.insert(out.end(), {flag, ToJsonText(value)});
  } else if (value.IsNull() || (value.Scalar() == "true" && !IsQuoted(value))) {
    out.push_back(flag);
  } else if (value.Scalar() != "false" || IsQuoted(value)) {
    // The model is positional on the command line; a file names it like a flag.
    if (key == "model") {
      out.push_back(value.Scalar());
    } else {
      out.insert(out.end(), {flag, value.Scalar()});
    }
  }
}

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

std::vector<std::string> FlagsOf(const std::string& path) {
  YAML::Node root;
  try {
    root = YAML::LoadFile(path);
  } catch (const YAML::BadFile&) {
    throw Error(ErrorCode::kNotFound, "cannot read the file '" + path + "' given with --config");
  } catch (const YAML::Exception& error) {
    throw Error(ErrorCode::kInvalidArgument, "'" + path + "' is not YAML: " + error.what());
  }
  if (!root.IsMap() && !root.IsNull()) {
    throw Error(ErrorCode::kInvalidArgument,
                "'" + path + "' should be a map of flags, as in 'max-num-seqs: 8'");
  }
  std::vector<std::string> flags;
  for (const auto& entry : root) AppendFlag(entry.first.Scalar(), entry.second, flags);
  return flags;
}

}  // namespace

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
    const std::vector<std::string> flags = FlagsOf(*path);
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
