#include "study/study_file.h"

#include <algorithm>
#include <boost/json/array.hpp>
#include <set>
#include <sstream>

#include "base/error.h"
#include "checkpoint/yaml.h"

namespace sluice {
namespace {

namespace json = boost::json;

constexpr const char* kKeys[] = {"name",       "description", "command", "fixed", "factors",
                                 "generators", "responses",   "repeats", "seed",  "timeout-s"};

[[noreturn]] void Fail(const std::string& origin, const std::string& what) {
  throw Error(ErrorCode::kInvalidArgument, origin + ": " + what);
}

std::string ReadName(const YAML::Node& node, const std::string& origin) {
  std::string name = node.IsScalar() ? node.Scalar() : "";
  const bool sound =
      !name.empty() && name.size() <= 100 && name.front() != '.' &&
      name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") ==
          std::string::npos;
  if (!sound) {
    Fail(origin, "'name' should be a word of letters, digits, '.', '_' and '-', as folders have");
  }
  return name;
}

// A command that ends by itself and prints JSON.
std::vector<std::string> ReadCommand(const YAML::Node& node, const std::string& origin) {
  std::vector<std::string> words;
  std::istringstream stream(node.IsScalar() ? node.Scalar() : "");
  for (std::string word; stream >> word;) words.push_back(word);
  static constexpr const char* kMeasured[] = {"bench", "plan", "profile", "study", "trace"};
  const bool known = !words.empty() && std::find(std::begin(kMeasured), std::end(kMeasured),
                                                 words.front()) != std::end(kMeasured);
  const bool itself = words.size() > 1 && words[0] == "study" && words[1] == "run";
  if (!known || itself) {
    Fail(origin,
         "'command' should be one that prints JSON with --json, as 'bench latency' or "
         "'plan placement'; got '" +
             (node.IsScalar() ? node.Scalar() : "") + "'");
  }
  return words;
}

double ReadNumber(const YAML::Node& root, const char* key, double otherwise, double least,
                  double most, const std::string& origin) {
  if (!root[key]) return otherwise;
  const json::value value = YamlToJson(root[key]);
  const double number = value.is_number() ? value.to_number<double>() : least - 1;
  if (number < least || number > most) {
    Fail(origin, std::string("'") + key + "' should be a number from " +
                     std::to_string(static_cast<int64_t>(least)) + " to " +
                     std::to_string(static_cast<int64_t>(most)));
  }
  return number;
}

std::vector<std::string> ReadNames(const YAML::Node& node, const std::string& what,
                                   const std::string& origin) {
  std::vector<std::string> names;
  bool sound = node.IsSequence() && node.size() > 0;
  if (sound) {
    for (const YAML::Node& element : node) {
      sound = sound && element.IsScalar() && !element.Scalar().empty();
      if (sound) names.push_back(element.Scalar());
    }
  }
  if (!sound) Fail(origin, what + " should be a list of names, as [a, b]");
  return names;
}

// The flags that `node`, a map, gives; their names go to `flags`.
std::vector<std::string> ReadFlags(const YAML::Node& node, const std::string& what,
                                   std::set<std::string>& flags, const std::string& origin) {
  if (!node.IsMap()) Fail(origin, what + " should be a map of flags, as {threads: 2}");
  std::vector<std::string> arguments;
  for (const auto& entry : node) {
    flags.insert(entry.first.Scalar());
    AppendYamlFlag(entry.first.Scalar(), entry.second, arguments);
  }
  return arguments;
}

Factor ReadFactor(const std::string& name, const YAML::Node& node, std::set<std::string>& flags,
                  const std::string& origin) {
  Factor factor{.name = name};
  if (name.empty() || name.find_first_of("*=, ") != std::string::npos) {
    Fail(origin, "a factor's name is a word without '*', '=' and commas; got '" + name + "'");
  }
  if (node.IsSequence()) {
    flags.insert(name);
    for (const YAML::Node& level : node) {
      if (!level.IsScalar()) Fail(origin, "levels of factor " + name + " should be plain values");
      FactorLevel& added = factor.levels.emplace_back(FactorLevel{.value = YamlToJson(level)});
      AppendYamlFlag(name, level, added.arguments);
    }
  } else if (node.IsMap()) {
    for (const auto& entry : node) {
      const std::string level = entry.first.Scalar();
      FactorLevel& added = factor.levels.emplace_back(FactorLevel{.value = json::string(level)});
      added.arguments =
          ReadFlags(entry.second, "level " + level + " of factor " + name, flags, origin);
    }
  } else {
    Fail(origin, "factor " + name + " should be a list of values, or a map of levels by name");
  }
  return factor;
}

FactorialDesign ReadDesign(const YAML::Node& root, const std::set<std::string>& fixed,
                           const std::string& origin) {
  if (!root["factors"] || !root["factors"].IsMap()) {
    Fail(origin, "'factors' should be a map of factors, each with its levels");
  }
  std::vector<Factor> factors;
  std::set<std::string> given = fixed;
  for (const auto& entry : root["factors"]) {
    std::set<std::string> flags;
    factors.push_back(ReadFactor(entry.first.Scalar(), entry.second, flags, origin));
    for (const std::string& flag : flags) {
      if (!given.insert(flag).second) {
        Fail(origin, "--" + flag + " is given by factor " + factors.back().name +
                         " and by another factor or 'fixed': one of them would have no effect");
      }
    }
  }
  std::vector<DesignGenerator> generators;
  if (root["generators"]) {
    if (!root["generators"].IsMap()) Fail(origin, "'generators' should be a map, as d: [a, b, c]");
    for (const auto& entry : root["generators"]) {
      const std::string factor = entry.first.Scalar();
      generators.push_back({factor, ReadNames(entry.second, "the generator of " + factor, origin)});
    }
  }
  try {
    return MakeDesign(std::move(factors), std::move(generators));
  } catch (const Error& error) {
    Fail(origin, error.what());
  }
}

void CheckKeys(const YAML::Node& root, const std::string& origin) {
  std::string known;
  for (const char* key : kKeys) known += std::string(known.empty() ? "" : ", ") + key;
  if (!root.IsMap()) Fail(origin, "should be a map with the keys " + known);
  std::set<std::string> seen;
  for (const auto& entry : root) {
    const std::string key = entry.first.Scalar();
    if (std::find(std::begin(kKeys), std::end(kKeys), key) == std::end(kKeys)) {
      Fail(origin, "key '" + key + "' is not known; a study has " + known);
    }
    if (!seen.insert(key).second) Fail(origin, "has the key '" + key + "' twice");
  }
  for (const char* key : {"name", "command", "factors", "responses"}) {
    if (!root[key]) Fail(origin, std::string("has no '") + key + "'");
  }
}

json::array TextsToJson(const std::vector<std::string>& texts) {
  return json::array(texts.begin(), texts.end());
}

}  // namespace

StudyPlan ParseStudy(std::string_view text, const std::string& origin) {
  const YAML::Node root = LoadYaml(text, origin);
  CheckKeys(root, origin);
  StudyPlan plan{.name = ReadName(root["name"], origin),
                 .command = ReadCommand(root["command"], origin)};
  if (root["description"]) plan.description = root["description"].Scalar();
  std::set<std::string> fixed;
  if (root["fixed"]) plan.fixed = ReadFlags(root["fixed"], "'fixed'", fixed, origin);
  plan.design = ReadDesign(root, fixed, origin);
  plan.responses = ReadNames(root["responses"], "'responses'", origin);
  plan.repeats = static_cast<int>(ReadNumber(root, "repeats", 1, 1, 10'000, origin));
  plan.seed = static_cast<uint64_t>(ReadNumber(root, "seed", 0, 0, 9e15, origin));
  plan.timeout_s = ReadNumber(root, "timeout-s", 600, 1, 1e6, origin);
  return plan;
}

std::vector<std::string> RunArguments(const StudyPlan& plan, int point) {
  std::vector<std::string> arguments = plan.command;
  arguments.insert(arguments.end(), plan.fixed.begin(), plan.fixed.end());
  const std::vector<int>& levels = plan.design.points[point];
  for (size_t f = 0; f < levels.size(); ++f) {
    const std::vector<std::string>& level = plan.design.factors[f].levels[levels[f]].arguments;
    arguments.insert(arguments.end(), level.begin(), level.end());
  }
  arguments.emplace_back("--json");
  return arguments;
}

json::object ToJson(const StudyPlan& plan) {
  json::array factors;
  for (const Factor& factor : plan.design.factors) {
    json::array levels;
    for (const FactorLevel& level : factor.levels) {
      levels.push_back({{"value", level.value}, {"arguments", TextsToJson(level.arguments)}});
    }
    factors.push_back({{"name", factor.name}, {"levels", std::move(levels)}});
  }
  json::array generators;
  for (const DesignGenerator& generator : plan.design.generators) {
    generators.push_back({{"factor", generator.factor}, {"of", TextsToJson(generator.of)}});
  }
  return {{"format", "sluice-study"},
          {"version", 1},
          {"name", plan.name},
          {"description", plan.description},
          {"command", TextsToJson(plan.command)},
          {"fixed", TextsToJson(plan.fixed)},
          {"factors", std::move(factors)},
          {"generators", std::move(generators)},
          {"resolution", plan.design.resolution},
          {"defining_words", TextsToJson(plan.design.defining_words)},
          {"aliases", TextsToJson(Aliases(plan.design))},
          {"points", plan.design.points.size()},
          {"runs", plan.design.points.size() * plan.repeats},
          {"repeats", plan.repeats},
          {"seed", plan.seed},
          {"responses", TextsToJson(plan.responses)}};
}

}  // namespace sluice
