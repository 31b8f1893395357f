#include "chat/jinja_filters.h"

#include <algorithm>
#include <array>

#include "chat/jinja_case.h"
#include "chat/jinja_filter_table.h"
#include "chat/jinja_operators.h"
#include "chat/jinja_text.h"

namespace sluice::jinja {
namespace {

const FilterEntry* FindFilter(std::string_view name) {
  for (const auto filters : {TextFilters(), NumberFilters(), SequenceFilters(), ChoiceFilters()}) {
    const auto found = std::ranges::find(filters, name, &FilterEntry::name);
    if (found != filters.end()) return &*found;
  }
  return nullptr;
}

// One part of a path: digits are an index.
Value PartOf(const std::string& part) {
  const bool digits =
      !part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == part.npos;
  return digits ? Value::Int(std::stoll(part)) : Value::String(part);
}

}  // namespace

bool IsFilterName(std::string_view name) {
  return FindFilter(name) != nullptr;
}

Value ApplyFilter(std::string_view name, const Value& input, const Arguments& arguments,
                  Budget* budget) {
  budget->Step();
  return FindFilter(name)->filter(input, arguments, budget);
}

Value Follow(Value value, const Value& path, const Value& fallback, Budget* budget) {
  const auto follow = [&](const Value& part) {
    value = Item(value, part, budget);
    if (value.IsUndefined() && !fallback.IsNone()) value = fallback;
  };
  if (path.IsNone()) return value;
  if (!path.IsString()) {
    follow(path);
    return value;
  }
  std::string_view rest = path.Text();
  while (true) {
    const size_t end = std::min(rest.find('.'), rest.size());
    follow(PartOf(std::string(rest.substr(0, end))));
    if (end == rest.size()) return value;
    rest.remove_prefix(end + 1);
  }
}

Value FollowAll(const Value& value, const Value& paths, Budget* budget) {
  if (!paths.IsString()) return Value::Of({Follow(value, paths, Value(), budget)});
  std::vector<Value> found;
  std::string_view rest = paths.Text();
  while (true) {
    const size_t end = std::min(rest.find(','), rest.size());
    found.push_back(
        Follow(value, Value::String(std::string(rest.substr(0, end))), Value(), budget));
    if (end == rest.size()) return Value::Of(std::move(found));
    rest.remove_prefix(end + 1);
  }
}

Value IgnoreCase(const Value& value) {
  return value.IsString() ? Value::String(ToLower(value.Text())) : value;
}

}  // namespace sluice::jinja
