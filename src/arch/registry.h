#pragma once

#include <string>
#include <vector>

#include "arch/model_spec.h"
#include "checkpoint/config.h"

namespace sluice {

// The `model_type`s that SpecFromConfig reads, sorted.
std::vector<std::string> KnownFamilies();

// Reads a model's spec from its config.json and, where there is one, generation_config.json (which
// then says the end-of-sequence ids). The spec is validated. Throws Error: kUnsupported for an
// unknown family and for a key that is set (not null, false, 0 or empty) and that is not supported
// or not known, naming key and value; kInvalidArgument for a missing or malformed key.
ModelSpec SpecFromConfig(const HfConfig& config, const HfConfig* generation_config = nullptr);

}  // namespace sluice
