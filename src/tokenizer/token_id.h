#pragma once

#include <cstdint>

namespace sluice {

// Index into a vocabulary.
using TokenId = int32_t;

}  // namespace sluice
