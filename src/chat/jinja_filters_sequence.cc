// The filters of lists, dicts and whatever else has items.

#include <algorithm>
#include <array>
#include <memory>

#include "chat/jinja_filter_table.h"
#include "chat/jinja_operators.h"
#include "chat/jinja_text.h"

namespace sluice::jinja {
namespace {

// A generator of items that are there already.
Value Drained(std::vector<Value> items) {
  const Value list = Value::Of(std::move(items));
  const auto iterator = std::make_shared<Iterator>(list);
  return Value::Lazy([iterator](Budget* budget) { return iterator->Next(budget); }, {list});
}

Value Length(const Value& input, const Arguments& arguments, Budget*) {
  arguments.Check("length", {});
  return Value::Int(SizeOf(input));
}

Value Join(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("join", {"d", "attribute"});
  const std::string separator = ToText(arguments.Get(0, "d", Value::String("")), budget);
  const Value attribute = arguments.Get(1, "attribute", Value());
  std::string text;
  bool first = true;
  for (const Value& item : ItemsOf(input, budget)) {
    if (!std::exchange(first, false)) text += separator;
    budget->Bytes(separator.size());
    text += ToText(Follow(item, attribute, Value(), budget), budget);
  }
  return Value::String(std::move(text));
}

Value First(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("first", {});
  Iterator items(input);
  const std::optional<Value> first = items.Next(budget);
  return first ? *first : Value::NotDefined("the first item of nothing");
}

bool IsReversible(const Value& value) {
  return value.IsUndefined() || value.IsString() || value.IfList() || value.IfDict();
}

Value Last(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("last", {});
  if (!IsReversible(input)) throw Failure(std::string("a ") + input.TypeName() + " has no last");
  const std::vector<Value> items = ItemsOf(input, budget);
  return items.empty() ? Value::NotDefined("the last item of nothing") : items.back();
}

Value ToList(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("list", {});
  return Value::Of(ItemsOf(input, budget));
}

Value Items(const Value& input, const Arguments& arguments, Budget*) {
  arguments.Check("items", {});
  const auto next = [input, pairs = std::make_shared<std::optional<Iterator>>()](
                        Budget* budget) -> std::optional<Value> {
    if (input.IsUndefined()) return std::nullopt;
    if (!input.IfDict()) throw Failure(std::string("items of a ") + input.TypeName());
    if (!*pairs) pairs->emplace(DictItems(*input.IfDict(), budget));
    return (*pairs)->Next(budget);
  };
  return Value::Lazy(next, {input});
}

Value Reverse(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("reverse", {});
  std::vector<Value> items = ItemsOf(input, budget);
  std::ranges::reverse(items);
  if (!IsReversible(input)) return Value::Of(std::move(items));
  if (!input.IsString()) return Drained(std::move(items));
  std::string text;
  for (const Value& character : items) text += character.Text();
  return Value::String(std::move(text));
}

// Merge sort, which stays within bounds for orders that are not consistent, such as NaN's.
// `sort` holds keys and values.
using Keyed = std::pair<Value, Value>;

void SortRange(std::vector<Keyed>* items, size_t begin, size_t end, Budget* budget) {
  if (end - begin < 2) return;
  const size_t middle = begin + (end - begin) / 2;
  SortRange(items, begin, middle, budget);
  SortRange(items, middle, end, budget);
  std::vector<Keyed> merged;
  merged.reserve(end - begin);
  size_t left = begin;
  size_t right = middle;
  while (left < middle && right < end) {
    budget->Step();
    const bool takes_right =
        Compare(Operator::kLess, (*items)[right].first, (*items)[left].first, budget);
    merged.push_back(std::move((*items)[takes_right ? right++ : left++]));
  }
  while (left < middle) merged.push_back(std::move((*items)[left++]));
  while (right < end) merged.push_back(std::move((*items)[right++]));
  std::ranges::move(merged, items->begin() + static_cast<ptrdiff_t>(begin));
}

// Sorts by key; items of one key keep their order, backwards too.
std::vector<Value> Sorted(std::vector<Keyed> items, bool backwards, Budget* budget) {
  if (backwards) std::ranges::reverse(items);
  SortRange(&items, 0, items.size(), budget);
  if (backwards) std::ranges::reverse(items);
  std::vector<Value> values;
  for (Keyed& item : items) values.push_back(std::move(item.second));
  return values;
}

Value IgnoreCaseOfAll(const Value& keys) {
  std::vector<Value> lowered;
  for (const Value& key : keys.IfList()->items) lowered.push_back(IgnoreCase(key));
  return Value::Of(std::move(lowered));
}

Value Sort(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("sort", {"reverse", "case_sensitive", "attribute"});
  const bool case_sensitive = IsTrue(arguments.Get(1, "case_sensitive", Value::Bool(false)));
  const Value attribute = arguments.Get(2, "attribute", Value());
  std::vector<Keyed> items;
  for (Value& item : ItemsOf(input, budget)) {
    Value keys = FollowAll(item, attribute, budget);
    items.emplace_back(case_sensitive ? std::move(keys) : IgnoreCaseOfAll(keys), std::move(item));
  }
  const bool backwards = IsTrue(arguments.Get(0, "reverse", Value::Bool(false)));
  return Value::Of(Sorted(std::move(items), backwards, budget));
}

Value DictSort(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("dictsort", {"case_sensitive", "by", "reverse"});
  const bool case_sensitive = IsTrue(arguments.Get(0, "case_sensitive", Value::Bool(false)));
  const Value by = arguments.Get(1, "by", Value::String("key"));
  const bool by_value = by.IsString() && by.Text() == "value";
  if (!by_value && !(by.IsString() && by.Text() == "key")) {
    throw Failure("dictsort sorts by 'key' or 'value'");
  }
  if (input.IfDict() == nullptr) throw Failure(std::string("dictsort of a ") + input.TypeName());
  std::vector<Keyed> items;
  for (Value& pair : ItemsOf(DictItems(*input.IfDict(), budget), budget)) {
    const Value& key = pair.IfList()->items[by_value ? 1 : 0];
    items.emplace_back(case_sensitive ? key : IgnoreCase(key), std::move(pair));
  }
  const bool backwards = IsTrue(arguments.Get(2, "reverse", Value::Bool(false)));
  return Value::Of(Sorted(std::move(items), backwards, budget));
}

Value GroupBy(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("groupby", {"attribute", "default", "case_sensitive"});
  const Value* attribute = arguments.Find(0, "attribute");
  if (attribute == nullptr) throw Failure("groupby needs an attribute");
  const Value fallback = arguments.Get(1, "default", Value());
  const bool case_sensitive = IsTrue(arguments.Get(2, "case_sensitive", Value::Bool(false)));
  const auto key_of = [&](const Value& item) {
    const Value key = Follow(item, *attribute, fallback, budget);
    return case_sensitive ? key : IgnoreCase(key);
  };
  std::vector<Keyed> items;
  for (Value& item : ItemsOf(input, budget)) items.emplace_back(key_of(item), std::move(item));
  const std::vector<Value> sorted = Sorted(std::move(items), false, budget);
  std::vector<Value> groups;
  for (size_t begin = 0; begin < sorted.size();) {
    size_t end = begin + 1;
    const Value key = key_of(sorted[begin]);
    while (end < sorted.size() && Equals(key, key_of(sorted[end]), budget)) ++end;
    Value group = Value::Of({sorted.begin() + static_cast<ptrdiff_t>(begin),
                             sorted.begin() + static_cast<ptrdiff_t>(end)});
    groups.push_back(
        Value::Of({Follow(sorted[begin], *attribute, fallback, budget), std::move(group)},
                  List::Form::kGroup));
    begin = end;
  }
  return Value::Of(std::move(groups));
}

Value Unique(const Value& input, const Arguments& arguments, Budget*) {
  arguments.Check("unique", {"case_sensitive", "attribute"});
  struct State {
    std::optional<Iterator> items;
    std::vector<Value> seen;
  };
  const bool case_sensitive = IsTrue(arguments.Get(0, "case_sensitive", Value::Bool(false)));
  const Value attribute = arguments.Get(1, "attribute", Value());
  const auto next = [state = std::make_shared<State>(), input, case_sensitive,
                     attribute](Budget* budget) -> std::optional<Value> {
    if (!state->items) state->items.emplace(input);
    while (std::optional<Value> item = state->items->Next(budget)) {
      Value key = Follow(*item, attribute, Value(), budget);
      if (!case_sensitive) key = IgnoreCase(key);
      CheckKey(key);
      budget->Step(state->seen.size());
      const bool seen = std::ranges::any_of(
          state->seen, [&](const Value& other) { return Equals(key, other, budget); });
      if (seen) continue;
      state->seen.push_back(std::move(key));
      return item;
    }
    return std::nullopt;
  };
  return Value::Lazy(next, {input, attribute});
}

template <Operator kBetter>
Value Extreme(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("min or max", {"case_sensitive", "attribute"});
  const bool case_sensitive = IsTrue(arguments.Get(0, "case_sensitive", Value::Bool(false)));
  const Value attribute = arguments.Get(1, "attribute", Value());
  std::optional<Keyed> best;
  for (const Value& item : ItemsOf(input, budget)) {
    Value key = Follow(item, attribute, Value(), budget);
    if (!case_sensitive) key = IgnoreCase(key);
    if (!best || Compare(kBetter, key, best->first, budget)) best.emplace(std::move(key), item);
  }
  return best ? best->second : Value::NotDefined("the extreme of nothing");
}

Value Sum(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("sum", {"attribute", "start"});
  const Value attribute = arguments.Get(0, "attribute", Value());
  Value total = arguments.Get(1, "start", Value::Int(0));
  if (total.IsString()) throw Failure("sum does not add strings: use join");
  for (const Value& item : ItemsOf(input, budget)) {
    total = Arithmetic(Operator::kAdd, total, Follow(item, attribute, Value(), budget), budget);
  }
  return total;
}

// Lists of `size` items; the last is filled up unless the filling is None.
Value Batch(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("batch", {"linecount", "fill_with"});
  const int64_t size = arguments.RequiredInteger(0, "linecount");
  const Value filling = arguments.Get(1, "fill_with", Value());
  std::vector<Value> batches;
  std::vector<Value> batch;
  for (Value& item : ItemsOf(input, budget)) {
    if (static_cast<int64_t>(batch.size()) == size) {
      batches.push_back(Value::Of(std::exchange(batch, {})));
    }
    batch.push_back(std::move(item));
  }
  if (!batch.empty() && !filling.IsNone()) {
    const int64_t missing = std::max<int64_t>(size - static_cast<int64_t>(batch.size()), 0);
    budget->Step(static_cast<uint64_t>(missing));
    batch.insert(batch.end(), static_cast<size_t>(missing), filling);
  }
  if (!batch.empty()) batches.push_back(Value::Of(std::move(batch)));
  return Drained(std::move(batches));
}

// `count` lists of nearly the same size; the shorter ones are filled unless the filling is None.
Value SliceFilter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("slice", {"slices", "fill_with"});
  const int64_t count = arguments.RequiredInteger(0, "slices");
  const Value filling = arguments.Get(1, "fill_with", Value());
  const std::vector<Value> items = ItemsOf(input, budget);
  if (count == 0) throw Failure("slice into 0 parts");
  std::vector<Value> slices;
  auto from = items.begin();
  budget->Step(static_cast<uint64_t>(std::max<int64_t>(count, 0)));
  for (int64_t i = 0; i < count; ++i) {
    const int64_t extra = i < static_cast<int64_t>(items.size()) % count ? 1 : 0;
    const auto to = from + static_cast<int64_t>(items.size()) / count + extra;
    std::vector<Value> slice(from, to);
    if (!filling.IsNone() && extra == 0) slice.push_back(filling);
    slices.push_back(Value::Of(std::move(slice)));
    from = to;
  }
  return Drained(std::move(slices));
}

Value Default(const Value& input, const Arguments& arguments, Budget*) {
  arguments.Check("default", {"default_value", "boolean"});
  const bool boolean = IsTrue(arguments.Get(1, "boolean", Value::Bool(false)));
  const bool missing = input.IsUndefined() || (boolean && !IsTrue(input));
  return missing ? arguments.Get(0, "default_value", Value::String("")) : input;
}

Value Attr(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("attr", {"name"});
  const std::string& name = arguments.Text(0, "name");
  // Unlike value.name, this does not look among a dict's keys.
  if (input.IfDict() != nullptr) return Attribute(Value::Of(Dict{}), name, budget);
  return Attribute(input, name, budget);
}

constexpr std::array<FilterEntry, 20> kFilters = {{
    {"length", Length},
    {"count", Length},
    {"join", Join},
    {"first", First},
    {"last", Last},
    {"list", ToList},
    {"items", Items},
    {"reverse", Reverse},
    {"sort", Sort},
    {"dictsort", DictSort},
    {"groupby", GroupBy},
    {"unique", Unique},
    {"min", Extreme<Operator::kLess>},
    {"max", Extreme<Operator::kGreater>},
    {"sum", Sum},
    {"batch", Batch},
    {"slice", SliceFilter},
    {"default", Default},
    {"d", Default},
    {"attr", Attr},
}};

}  // namespace

std::span<const FilterEntry> SequenceFilters() {
  return kFilters;
}

}  // namespace sluice::jinja
