#pragma once

#include <string>

#include "chat/jinja_ast.h"
#include "chat/jinja_value.h"

namespace sluice::jinja {

// Renders a parsed template. `variables` are what the template may name, besides range(),
// namespace(), dict() and raise_exception(). Throws Error(kInvalidArgument) for raise_exception()
// and wherever Jinja would fail, Error(kUnsupported) for what is not written here, and
// Error(kResourceExhausted) when the rendering takes too many steps or bytes.
std::string Render(const Body& body, const Dict& variables);

}  // namespace sluice::jinja
