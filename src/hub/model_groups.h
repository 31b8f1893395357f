#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace sluice {

// Models that are pulled together, as configs/groups.yaml lists them.
struct ModelGroup {
  struct Model {
    std::string name;      // "ORG/NAME"
    double gigabytes = 0;  // of the files pulled by default
  };
  std::string name;
  std::string about;
  std::vector<Model> models;
};

// Reads a mapping of group name to {about, models: {ORG/NAME: gigabytes}}. Throws
// Error(kInvalidArgument) for anything else; `origin` names the source in errors.
std::vector<ModelGroup> ParseModelGroups(std::string_view yaml, const std::string& origin);

// The group of that name, or nullptr.
const ModelGroup* FindGroup(const std::vector<ModelGroup>& groups, std::string_view name);

}  // namespace sluice
