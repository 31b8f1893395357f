#pragma once

#include <string_view>

#include "chat/jinja_ast.h"
#include "chat/jinja_budget.h"
#include "chat/jinja_value.h"

namespace sluice::jinja {

// Python's operators. All throw Error(kInvalidArgument) for types that do not go together and
// Error(kUnsupported) where an integer passes 64 bits.
Value Arithmetic(Operator op, const Value& a, const Value& b, Budget* budget);
bool Compare(Operator op, const Value& a, const Value& b, Budget* budget);
Value Negate(const Value& value);

// value.name and value[key]: undefined when there is none.
Value Attribute(const Value& value, const std::string& name, Budget* budget);
Value Item(const Value& value, const Value& key, Budget* budget);
// value[start:stop:step]; None for a part left out.
Value Slice(const Value& value, const Value& start, const Value& stop, const Value& step,
            Budget* budget);

}  // namespace sluice::jinja
