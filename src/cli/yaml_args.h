#pragma once

#include <string>
#include <vector>

namespace sluice {

// Replaces `--config FILE` among a command's arguments by the flags that the YAML file holds: `key:
// value` becomes `--key value`, `key: true` becomes `--key`, `key: false` nothing, a list the flag
// once for each element, and a map its JSON. Flags given on the command line come later and win.
// Throws Error when the file cannot be read or is not a flat map of flags.
std::vector<std::string> ExpandConfigFile(std::vector<std::string> arguments);

}  // namespace sluice
