#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "chat/jinja_arguments.h"
#include "chat/jinja_budget.h"
#include "chat/jinja_value.h"

namespace sluice::jinja {

// The methods of strings, lists, tuples, dicts and loops.
using Method = Value (*)(const Value& self, const Arguments& arguments, Budget* budget);

struct MethodEntry {
  std::string_view name;
  Method method;
};

std::span<const MethodEntry> StringMethods();

// Whether Python has a method of this name that is not written here.
bool IsUnsupportedMethod(std::string_view name);

// The method bound to its object, or what stands for one that Jinja's sandbox keeps from
// templates; nothing when its type has none with this name.
std::optional<Value> FindMethod(const Value& value, const std::string& name);

// Precondition: `method` came from FindMethod.
Value CallMethod(const Callable& method, const Arguments& arguments, Budget* budget);

}  // namespace sluice::jinja
