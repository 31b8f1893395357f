// map, select, reject, selectattr and rejectattr.

#include <array>
#include <memory>

#include "chat/jinja_filter_table.h"
#include "chat/jinja_filters.h"
#include "chat/jinja_operators.h"
#include "chat/jinja_tests.h"

namespace sluice::jinja {
namespace {

std::vector<Value> Captured(const Value& input, const Arguments& arguments) {
  std::vector<Value> captured = arguments.positional;
  for (const auto& [name, value] : arguments.named) captured.push_back(value);
  captured.push_back(input);
  return captured;
}

// The arguments from `first` on.
Arguments Rest(const Arguments& arguments, size_t first) {
  return {.positional = {arguments.positional.begin() + static_cast<ptrdiff_t>(first),
                         arguments.positional.end()},
          .named = arguments.named};
}

// What map does to each item.
std::function<Value(const Value&, Budget*)> Mapper(const Arguments& arguments) {
  if (arguments.positional.empty() && arguments.Find(0, "attribute") != nullptr) {
    arguments.Check("map", {"attribute", "default"});
    return [path = arguments.Get(0, "attribute", Value()),
            fallback = arguments.Get(1, "default", Value())](const Value& item, Budget* budget) {
      return Follow(item, path, fallback, budget);
    };
  }
  if (arguments.positional.empty()) throw Failure("map needs a filter or an attribute");
  const std::string name = arguments.Text(0, "filter");
  if (!IsFilterName(name)) throw Failure("there is no filter named '" + name + "'");
  return [name, rest = Rest(arguments, 1)](const Value& item, Budget* budget) {
    return ApplyFilter(name, item, rest, budget);
  };
}

// Whether select keeps an item.
std::function<bool(const Value&, Budget*)> Chooser(const Arguments& arguments, bool by_attribute) {
  const size_t first = by_attribute ? 1 : 0;
  if (arguments.positional.size() < first) throw Failure("the attribute to choose by is missing");
  const Value path = by_attribute ? arguments.positional[0] : Value();
  if (arguments.positional.size() == first) {
    return [path](const Value& item, Budget* budget) {
      return IsTrue(Follow(item, path, Value(), budget));
    };
  }
  const std::string name = arguments.Text(first, "test");
  if (!IsTestName(name)) throw Failure("there is no test named '" + name + "'");
  return [path, name, rest = Rest(arguments, first + 1)](const Value& item, Budget* budget) {
    return ApplyTest(name, Follow(item, path, Value(), budget), rest, budget);
  };
}

// As generators, these look at neither input nor arguments before the first item is asked for.
Value Map(const Value& input, const Arguments& arguments, Budget*) {
  struct State {
    std::optional<Iterator> items;
    std::function<Value(const Value&, Budget*)> map;
  };
  const auto next = [state = std::make_shared<State>(), input,
                     arguments](Budget* budget) -> std::optional<Value> {
    if (!IsTrue(input)) return std::nullopt;
    if (!state->items) {
      state->map = Mapper(arguments);
      state->items.emplace(input);
    }
    const std::optional<Value> item = state->items->Next(budget);
    if (!item) return std::nullopt;
    return state->map(*item, budget);
  };
  return Value::Lazy(next, Captured(input, arguments));
}

template <bool kByAttribute, bool kKeep>
Value Choose(const Value& input, const Arguments& arguments, Budget*) {
  struct State {
    std::optional<Iterator> items;
    std::function<bool(const Value&, Budget*)> choose;
  };
  const auto next = [state = std::make_shared<State>(), input,
                     arguments](Budget* budget) -> std::optional<Value> {
    if (!IsTrue(input)) return std::nullopt;
    if (!state->items) {
      state->choose = Chooser(arguments, kByAttribute);
      state->items.emplace(input);
    }
    while (std::optional<Value> item = state->items->Next(budget)) {
      if (state->choose(*item, budget) == kKeep) return item;
    }
    return std::nullopt;
  };
  return Value::Lazy(next, Captured(input, arguments));
}

constexpr std::array<FilterEntry, 5> kFilters = {{
    {"map", Map},
    {"select", Choose<false, true>},
    {"reject", Choose<false, false>},
    {"selectattr", Choose<true, true>},
    {"rejectattr", Choose<true, false>},
}};

}  // namespace

std::span<const FilterEntry> ChoiceFilters() {
  return kFilters;
}

}  // namespace sluice::jinja
