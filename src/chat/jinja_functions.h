#pragma once

#include <chrono>
#include <span>
#include <string_view>

#include "chat/jinja_arguments.h"
#include "chat/jinja_budget.h"
#include "chat/jinja_value.h"

namespace sluice::jinja {

// The functions that a template may call by name: range, dict, namespace, raise_exception and
// strftime_now.
std::span<const std::string_view> FunctionNames();

// Precondition: `name` is among them. strftime_now formats `now` in local time.
Value CallFunction(std::string_view name, const Arguments& arguments,
                   std::chrono::system_clock::time_point now, Budget* budget);

}  // namespace sluice::jinja
