#pragma once

#include <optional>
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

// The failure of using what is not there, or what the sandbox keeps from templates.
Error UndefinedFailure(const Undefined& undefined);

// The arguments of a filter, method or function. Each Get names a parameter, in order.
class Arguments {
 public:
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  // Throws unless every argument is among `parameters`, given once.
  void Check(std::string_view callee, const std::vector<std::string_view>& parameters) const;

  // Throws unless there are from `least` to `most` arguments, none of them named.
  void CheckPositional(std::string_view callee, size_t least, size_t most) const;

  // The argument at `index` or called `name`; null when it was not given.
  const Value* Find(size_t index, std::string_view name) const;
  Value Get(size_t index, std::string_view name, const Value& fallback) const;
  // Throws when the argument is missing or of another type.
  const std::string& Text(size_t index, std::string_view name) const;
  // None stands for the fallback.
  int64_t Integer(size_t index, std::string_view name, int64_t fallback) const;
  // None is refused.
  int64_t RequiredInteger(size_t index, std::string_view name,
                          std::optional<int64_t> fallback = {}) const;
};

// Runs over the items of a value, asking a generator for one at a time. Keeps the value.
class Iterator {
 public:
  // Throws for what has no items.
  explicit Iterator(Value value);
  std::optional<Value> Next(Budget* budget);

 private:
  Value value_;
  size_t next_ = 0;
};

// The items of anything that a for may run over. Throws for what cannot be.
std::vector<Value> ItemsOf(const Value& value, Budget* budget);

// What dict.items() gives.
Value DictItems(const Dict& dict, Budget* budget);

// The number of items, as Python's len() gives it.
int64_t SizeOf(const Value& value);

}  // namespace sluice::jinja
