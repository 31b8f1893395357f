#pragma once

#include <string_view>

#include "chat/jinja_ast.h"

namespace sluice::jinja {

// Parses a template. Throws Error(kDataLoss) where it is not Jinja and Error(kUnsupported) for
// Jinja that is not written here (inheritance, includes, unknown filters and tests), each with its
// line and column.
Body Parse(std::string_view source);

}  // namespace sluice::jinja
