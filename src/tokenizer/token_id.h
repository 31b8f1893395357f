#pragma once

#include <cstdint>

namespace sluice {

// A token's row in the embedding table. Never negative in a prompt or an output.
using TokenId = int32_t;

}  // namespace sluice
