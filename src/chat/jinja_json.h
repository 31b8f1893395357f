#pragma once

#include <boost/json/fwd.hpp>
#include <optional>
#include <string>

#include "chat/jinja_budget.h"
#include "chat/jinja_value.h"

namespace sluice::jinja {

Value FromJson(const boost::json::value& json);

struct JsonStyle {
  // What each level is indented by; all in one line without.
  std::optional<std::string> indent = {};
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool ascii = false;
  bool sort_keys = false;
};

// Python's json.dumps. Throws Error(kInvalidArgument) for what JSON cannot say.
std::string ToJson(const Value& value, const JsonStyle& style, Budget* budget);

}  // namespace sluice::jinja
