#pragma once

#include <span>
#include <string_view>

#include "chat/jinja_arguments.h"
#include "chat/jinja_budget.h"
#include "chat/jinja_value.h"

namespace sluice::jinja {

// The filters, by what they work on. Part of jinja_filters.h's implementation.
using Filter = Value (*)(const Value& input, const Arguments& arguments, Budget* budget);

struct FilterEntry {
  std::string_view name;
  Filter filter;
};

std::span<const FilterEntry> TextFilters();
std::span<const FilterEntry> NumberFilters();
std::span<const FilterEntry> SequenceFilters();
// map, select and their like, which apply other filters and tests.
std::span<const FilterEntry> ChoiceFilters();

// The value at a path such as "a.b.0" or 0 below a value, or the fallback where nothing is there.
Value Follow(Value value, const Value& path, const Value& fallback, Budget* budget);
// The same for several paths with commas between them, as a list.
Value FollowAll(const Value& value, const Value& paths, Budget* budget);

// What compares where the case of letters does not count.
Value IgnoreCase(const Value& value);

}  // namespace sluice::jinja
