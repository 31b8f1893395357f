#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "chat/jinja_budget.h"
#include "chat/jinja_value.h"

namespace sluice::jinja {

// An Error(kInvalidArgument): what the messages gave does not suit the template.
Error Failure(const std::string& message);

// The arguments of a filter, method or function. Each Get names a parameter, in order.
class Arguments {
 public:
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  // Throws unless every argument is among `parameters`, given once.
  void Check(std::string_view callee, const std::vector<std::string_view>& parameters) const;

  // The argument at `index` or called `name`; null when it was not given.
  const Value* Find(size_t index, std::string_view name) const;
  Value Get(size_t index, std::string_view name, const Value& fallback) const;
  // Throws when the argument is missing or of another type.
  const std::string& Text(size_t index, std::string_view name) const;
  int64_t Integer(size_t index, std::string_view name, int64_t fallback) const;
};

// The items of anything that a for may run over. Throws for what cannot be.
std::vector<Value> ItemsOf(const Value& value, Budget* budget);

// The number of items, as Python's len() gives it.
int64_t SizeOf(const Value& value);

}  // namespace sluice::jinja
