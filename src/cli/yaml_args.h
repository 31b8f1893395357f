#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace sluice {

// The flags that YAML text holds: `key: value` becomes `--key value`, `key: true` becomes `--key`,
// `key: false` nothing, a list the flag once for each element, and a map its JSON. Throws
// Error(kInvalidArgument), naming `origin`, for what is not a map of flags.
std::vector<std::string> FlagsFromYaml(std::string_view text, const std::string& origin);

// Replaces `--config FILE` among a command's arguments by the flags of that YAML file. Flags given
// on the command line come later and win. Throws Error when the file cannot be read, too.
std::vector<std::string> ExpandConfigFile(std::vector<std::string> arguments);

}  // namespace sluice
