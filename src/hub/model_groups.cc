#include "hub/model_groups.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>

#include "base/error.h"
#include "hub/model_places.h"

namespace sluice {
namespace {

ModelGroup ReadGroup(const std::string& name, const YAML::Node& node, const std::string& origin) {
  ModelGroup group{.name = name, .about = node["about"].as<std::string>()};
  for (const auto& entry : node["models"]) {
    ModelGroup::Model model{.name = entry.first.as<std::string>(),
                            .gigabytes = entry.second.as<double>()};
    if (!IsModelName(model.name)) {
      throw Error(ErrorCode::kInvalidArgument, origin + ": group \"" + name + "\" lists \"" +
                                                   model.name + "\", expected ORG/NAME");
    }
    group.models.push_back(std::move(model));
  }
  if (group.models.empty()) {
    throw Error(ErrorCode::kInvalidArgument, origin + ": group \"" + name + "\" lists no model");
  }
  return group;
}

}  // namespace

std::vector<ModelGroup> ParseModelGroups(std::string_view yaml, const std::string& origin) {
  try {
    const YAML::Node root = YAML::Load(std::string(yaml));
    if (!root.IsMap()) {
      throw Error(ErrorCode::kInvalidArgument,
                  origin + ": expected a mapping of group names to {about, models}");
    }
    std::vector<ModelGroup> groups;
    for (const auto& entry : root) {
      groups.push_back(ReadGroup(entry.first.as<std::string>(), entry.second, origin));
    }
    return groups;
  } catch (const YAML::Exception& error) {
    throw Error(ErrorCode::kInvalidArgument, origin + ": " + error.what());
  }
}

const ModelGroup* FindGroup(const std::vector<ModelGroup>& groups, std::string_view name) {
  const auto found = std::find_if(groups.begin(), groups.end(),
                                  [&](const ModelGroup& group) { return group.name == name; });
  return found == groups.end() ? nullptr : &*found;
}

}  // namespace sluice
