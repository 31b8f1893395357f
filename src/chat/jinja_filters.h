#pragma once

#include <string_view>

#include "chat/jinja_arguments.h"
#include "chat/jinja_budget.h"
#include "chat/jinja_value.h"

namespace sluice::jinja {

bool IsFilterName(std::string_view name);

// Precondition: IsFilterName(name). Throws Error(kInvalidArgument) for arguments or an input that
// do not suit the filter.
Value ApplyFilter(std::string_view name, const Value& input, const Arguments& arguments,
                  Budget* budget);

}  // namespace sluice::jinja
