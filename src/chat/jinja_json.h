#pragma once

#include <boost/json/fwd.hpp>
#include <string>

#include "chat/jinja_budget.h"
#include "chat/jinja_value.h"

namespace sluice::jinja {

Value FromJson(const boost::json::value& json);

struct JsonStyle {
  int indent = -1;  // spaces a level; negative for all in one line
  bool ascii = false;
  bool sort_keys = false;
};

// Python's json.dumps. Throws Error(kInvalidArgument) for what JSON cannot say.
std::string ToJson(const Value& value, const JsonStyle& style, Budget* budget);

}  // namespace sluice::jinja
