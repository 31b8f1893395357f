#pragma once

#include <yaml-cpp/yaml.h>

#include <boost/json/value.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

// Parses YAML text. What comes back can be walked to its end: aliases stand for what they name, but
// the whole is at most 65,536 values, each counted as often as it is reached, 16 levels deep, and
// keys are scalars. Throws Error(kInvalidArgument), naming `origin`, for text that is not YAML or
// passes a bound.
YAML::Node LoadYaml(std::string_view text, const std::string& origin);

// The same values as JSON: plain scalars become null, bools and numbers as in YAML 1.2, and quoted
// ones strings. `node` comes from LoadYaml.
boost::json::value YamlToJson(const YAML::Node& node);

// Whether a scalar was written in quotes and so is a string whatever it spells.
bool IsQuotedYaml(const YAML::Node& node);

// Appends the command line's flag that `key: value` stands for: `--key value`, `--key` for true,
// nothing for false, a list the flag once for each element, a map its JSON. `model`, which is
// positional there, becomes the value alone.
void AppendYamlFlag(const std::string& key, const YAML::Node& value,
                    std::vector<std::string>& arguments);

}  // namespace sluice
