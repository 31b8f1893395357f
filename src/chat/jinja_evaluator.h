#pragma once

#include <chrono>
#include <string>

#include "chat/jinja_ast.h"
#include "chat/jinja_value.h"

namespace sluice::jinja {

// Renders a parsed template. `variables` are what the template may name, besides the functions of
// jinja_functions.h; strftime_now() tells `now`. Throws Error(kInvalidArgument) for
// raise_exception() and wherever Jinja would fail, Error(kUnsupported) for what is not written
// here, and Error(kResourceExhausted) when the rendering takes too many steps or bytes.
std::string Render(const Body& body, const Dict& variables,
                   std::chrono::system_clock::time_point now);

}  // namespace sluice::jinja
