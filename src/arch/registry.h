#pragma once

#include <string>
#include <vector>

#include "arch/model_spec.h"
#include "checkpoint/config.h"

namespace sluice {

// The `model_type`s that SpecFromConfig reads, sorted.
std::vector<std::string> KnownFamilies();

struct SpecResult {
  ModelSpec spec;  // validated
  // Keys that are set in the config and that nothing here knows: worth a warning, not an error.
  std::vector<std::string> unknown_keys;
};

// Reads a model's spec from its config.json and, where there is one, generation_config.json (which
// then says the end-of-sequence ids). Throws Error: kUnsupported for an unknown family or for an
// option that is set and not supported, naming key and value; kInvalidArgument for a missing or
// malformed key.
SpecResult SpecFromConfig(const HfConfig& config, const HfConfig* generation_config = nullptr);

}  // namespace sluice
