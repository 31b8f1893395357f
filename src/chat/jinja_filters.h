#pragma once

#include <string_view>

#include "chat/jinja_arguments.h"
#include "chat/jinja_budget.h"
#include "chat/jinja_value.h"

namespace sluice::jinja {

bool IsFilterName(std::string_view name);
// Precondition: IsFilterName(name).
Value ApplyFilter(std::string_view name, const Value& input, const Arguments& arguments,
                  Budget* budget);

bool IsTestName(std::string_view name);
// Whether the test compares with something, as in "x is divisibleby 3".
bool TestTakesArgument(std::string_view name);
// Precondition: IsTestName(name).
bool ApplyTest(std::string_view name, const Value& input, const std::vector<Value>& arguments,
               Budget* budget);

}  // namespace sluice::jinja
