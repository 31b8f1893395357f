#pragma once

#include <string>
#include <string_view>

#include "chat/jinja_arguments.h"
#include "chat/jinja_budget.h"
#include "chat/jinja_value.h"

namespace sluice::jinja {

// Python's format(value, spec).
std::string FormatValue(const Value& value, std::string_view spec, Budget* budget);

// template.format(*positional, **named), as Jinja's sandbox lets it.
std::string FormatText(std::string_view text, const Arguments& arguments, Budget* budget);

// text % arguments, where several arguments stand in a tuple.
std::string PercentFormat(std::string_view text, const Value& arguments, Budget* budget);

}  // namespace sluice::jinja
