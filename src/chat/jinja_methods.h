#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "chat/jinja_arguments.h"
#include "chat/jinja_budget.h"
#include "chat/jinja_value.h"

namespace sluice::jinja {

// The methods of strings, dicts and loops.

// Whether any type has a method with this name.
bool IsMethodName(std::string_view name);

// The method bound to its object; nothing when its type has none with this name.
std::optional<Value> FindMethod(const Value& value, const std::string& name);

// Precondition: `method` came from FindMethod.
Value CallMethod(const Callable& method, const Arguments& arguments, Budget* budget);

}  // namespace sluice::jinja
