#include "chat/jinja_filters.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "chat/jinja_json.h"
#include "chat/jinja_operators.h"
#include "chat/jinja_text.h"

namespace sluice::jinja {
namespace {

using Filter = Value (*)(const Value& input, const Arguments& arguments, Budget* budget);
using Test = bool (*)(const Value& input, const Value& argument, Budget* budget);

struct FilterEntry {
  std::string_view name;
  Filter filter;
};

struct TestEntry {
  std::string_view name;
  Test test;
  bool takes_argument = false;
};

// Follows "a.b.0" from a value.
Value Follow(Value value, std::string_view path, Budget* budget) {
  while (true) {
    const std::string part(path.substr(0, path.find('.')));
    int64_t index = 0;
    const auto parsed = std::from_chars(part.data(), part.data() + part.size(), index);
    const bool is_index = !part.empty() && parsed.ptr == part.data() + part.size();
    value = Item(value, is_index ? Value::Int(index) : Value::String(part), budget);
    if (part.size() == path.size()) return value;
    path.remove_prefix(part.size() + 1);
  }
}

std::string TextOf(const Value& value, Budget* budget) {
  std::string text = ToText(value);
  budget->Bytes(text.size());
  return text;
}

Value Trim(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("trim", {"chars"});
  const std::string text = TextOf(input, budget);
  const Value* chars = arguments.Find(0, "chars");
  if (chars != nullptr && !chars->IsNone()) {
    return Value::String(StripAnyOf(text, arguments.Text(0, "chars"), true, true));
  }
  return Value::String(StripRight(StripLeft(text)));
}

Value Length(const Value& input, const Arguments& arguments, Budget*) {
  arguments.Check("length", {});
  return Value::Int(SizeOf(input));
}

template <auto kMap>
Value MapText(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("a filter of case", {});
  return Value::String(kMap(TextOf(input, budget)));
}

Value ToStringFilter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("string", {});
  return input.IsString() ? input : Value::String(TextOf(input, budget));
}

Value Join(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("join", {"d", "attribute"});
  const std::string separator = ToText(arguments.Get(0, "d", Value::String("")));
  std::string text;
  bool first = true;
  for (Value item : ItemsOf(input, budget)) {
    if (arguments.Find(1, "attribute")) item = Follow(item, arguments.Text(1, "attribute"), budget);
    if (!std::exchange(first, false)) text += separator;
    budget->Bytes(separator.size());
    text += TextOf(item, budget);
  }
  return Value::String(std::move(text));
}

Value ToJsonFilter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("tojson", {"ensure_ascii", "indent", "separators", "sort_keys"});
  if (!arguments.Get(2, "separators", Value()).IsNone()) {
    throw Error(ErrorCode::kUnsupported, "chat template: tojson with separators is not supported");
  }
  const int64_t indent = arguments.Integer(1, "indent", -1);
  if (indent > 64) throw Failure("tojson with an indent over 64");
  const JsonStyle style{.indent = static_cast<int>(std::max<int64_t>(indent, -1)),
                        .ascii = IsTrue(arguments.Get(0, "ensure_ascii", Value::Bool(false))),
                        .sort_keys = IsTrue(arguments.Get(3, "sort_keys", Value::Bool(false)))};
  return Value::String(ToJson(input, style, budget));
}

Value Default(const Value& input, const Arguments& arguments, Budget*) {
  arguments.Check("default", {"default_value", "boolean"});
  const bool boolean = IsTrue(arguments.Get(1, "boolean", Value::Bool(false)));
  const bool missing = input.IsUndefined() || (boolean && !IsTrue(input));
  return missing ? arguments.Get(0, "default_value", Value::String("")) : input;
}

Value First(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("first", {});
  const std::vector<Value> items = ItemsOf(input, budget);
  return items.empty() ? Value::NotDefined("the first item of nothing") : items.front();
}

Value Last(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("last", {});
  const std::vector<Value> items = ItemsOf(input, budget);
  return items.empty() ? Value::NotDefined("the last item of nothing") : items.back();
}

Value ToList(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("list", {});
  return Value::Of(ItemsOf(input, budget));
}

Value Items(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("items", {});
  std::vector<Value> items;
  if (input.IsUndefined()) return Value::Of({}, List::Form::kGenerator);
  const Dict* dict = input.IfDict();
  if (dict == nullptr) throw Failure(std::string("items needs a dict, not a ") + input.TypeName());
  budget->Bytes(dict->entries.size() * 4 * sizeof(Value));
  for (const auto& [key, value] : dict->entries) {
    items.push_back(Value::Of({key, value}, List::Form::kTuple));
  }
  return Value::Of(std::move(items), List::Form::kGenerator);
}

// The number a str spells as a whole, blanks around it aside.
template <class Number>
std::optional<Number> ParseWhole(const std::string& text) {
  std::string digits = StripRight(StripLeft(text));
  if (digits.starts_with('+')) digits.erase(0, 1);
  Number number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return number;
}

std::optional<int64_t> Truncate(double number) {
  if (!(std::fabs(number) < 9.2e18)) return std::nullopt;
  return static_cast<int64_t>(number);
}

Value ToInt(const Value& input, const Arguments& arguments, Budget*) {
  arguments.Check("int", {"default"});
  std::optional<int64_t> number;
  int64_t scratch = 0;
  if (const int64_t* integer = IfInteger(input, &scratch)) number = *integer;
  if (const double* real = input.If<double>()) number = Truncate(*real);
  if (input.IsString()) {
    number = ParseWhole<int64_t>(input.Text());
    const auto real = ParseWhole<double>(input.Text());
    if (!number && real) number = Truncate(*real);
  }
  return number ? Value::Int(*number) : arguments.Get(0, "default", Value::Int(0));
}

Value ToFloat(const Value& input, const Arguments& arguments, Budget*) {
  arguments.Check("float", {"default"});
  if (IsNumber(input)) return Value::Float(AsDouble(input));
  const auto number = input.IsString() ? ParseWhole<double>(input.Text()) : std::nullopt;
  return number ? Value::Float(*number) : arguments.Get(0, "default", Value::Float(0));
}

Value Replace(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("replace", {"old", "new", "count"});
  const std::string text = TextOf(input, budget);
  const std::string& from = arguments.Text(0, "old");
  const std::string& to = arguments.Text(1, "new");
  budget->Bytes((text.size() / std::max<size_t>(from.size(), 1) + 1) * to.size());
  return Value::String(ReplaceAll(text, from, to, arguments.Integer(2, "count", -1)));
}

// Keeps items that pass (or fail) a test; the arguments from `first` on are the test and its own.
Value Choose(const Value& input, const Arguments& arguments, Budget* budget, bool by_attribute,
             bool keep) {
  const size_t first = by_attribute ? 1 : 0;
  std::vector<Value> kept;
  std::vector<Value> rest;
  const bool has_test = arguments.positional.size() > first;
  if (has_test && !IsTestName(arguments.Text(first, "test"))) {
    throw Error(ErrorCode::kUnsupported,
                "chat template: the test " + arguments.Text(first, "test") + " is not supported");
  }
  if (has_test)
    rest.assign(arguments.positional.begin() + static_cast<ptrdiff_t>(first) + 1,
                arguments.positional.end());
  for (const Value& item : ItemsOf(input, budget)) {
    const Value part = by_attribute ? Follow(item, arguments.Text(0, "attribute"), budget) : item;
    const bool passes =
        has_test ? ApplyTest(arguments.Text(first, "test"), part, rest, budget) : IsTrue(part);
    if (passes == keep) kept.push_back(item);
  }
  return Value::Of(std::move(kept), List::Form::kGenerator);
}

Value Map(const Value& input, const Arguments& arguments, Budget* budget) {
  std::vector<Value> mapped;
  const std::vector<Value> items = ItemsOf(input, budget);
  if (!arguments.positional.empty()) {
    const std::string& name = arguments.Text(0, "filter");
    if (!IsFilterName(name)) {
      throw Error(ErrorCode::kUnsupported,
                  "chat template: the filter " + name + " is not supported");
    }
    const Arguments rest{
        .positional = {arguments.positional.begin() + 1, arguments.positional.end()},
        .named = arguments.named};
    for (const Value& item : items) mapped.push_back(ApplyFilter(name, item, rest, budget));
  } else {
    arguments.Check("map", {"attribute", "default"});
    for (const Value& item : items) {
      Value part = Follow(item, arguments.Text(0, "attribute"), budget);
      mapped.push_back(part.IsUndefined() ? arguments.Get(1, "default", part) : std::move(part));
    }
  }
  return Value::Of(std::move(mapped), List::Form::kGenerator);
}

Value Absolute(const Value& input, const Arguments& arguments, Budget*) {
  arguments.Check("abs", {});
  if (!IsNumber(input)) throw Failure(std::string("abs needs a number, not a ") + input.TypeName());
  if (AsDouble(input) < 0) return Negate(input);
  return input;
}

Value Reverse(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("reverse", {});
  std::vector<Value> items = ItemsOf(input, budget);
  std::ranges::reverse(items);
  if (!input.IsString()) return Value::Of(std::move(items), List::Form::kGenerator);
  std::string text;
  for (const Value& character : items) text += character.Text();
  return Value::String(std::move(text));
}

Value Unique(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("unique", {});
  std::vector<Value> kept;
  for (const Value& item : ItemsOf(input, budget)) {
    budget->Step(kept.size());
    const Value key = item.IsString() ? Value::String(ToLower(item.Text())) : item;
    const bool seen = std::ranges::any_of(kept, [&](const Value& other) {
      return Equals(key, other.IsString() ? Value::String(ToLower(other.Text())) : other);
    });
    if (!seen) kept.push_back(item);
  }
  return Value::Of(std::move(kept), List::Form::kGenerator);
}

Value Sum(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("sum", {"attribute", "start"});
  Value total = arguments.Get(1, "start", Value::Int(0));
  const Value* attribute = arguments.Find(0, "attribute");
  for (Value item : ItemsOf(input, budget)) {
    if (attribute && !attribute->IsNone())
      item = Follow(item, arguments.Text(0, "attribute"), budget);
    total = Arithmetic(Operator::kAdd, total, item, budget);
  }
  return total;
}

Value Indent(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("indent", {"width", "first", "blank"});
  const int64_t width = arguments.Integer(0, "width", 4);
  const bool first = IsTrue(arguments.Get(1, "first", Value::Bool(false)));
  const bool blank = IsTrue(arguments.Get(2, "blank", Value::Bool(false)));
  const std::string text = TextOf(input, budget);
  if (width < 0 || width > 1000) throw Failure("indent needs a width from 0 to 1000");
  const std::string pad(static_cast<size_t>(width), ' ');
  std::string result;
  bool at_first = true;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    budget->Bytes(pad.size());
    const bool padded = at_first ? first : (blank || end > begin);
    if (padded) result += pad;
    result.append(text, begin, end - begin);
    if (end < text.size()) result.push_back('\n');
    begin = end + 1;
    at_first = false;
  }
  return Value::String(std::move(result));
}

Value Same(const Value& input, const Arguments& arguments, Budget*) {
  arguments.Check("safe", {});
  return input;
}

constexpr std::array<FilterEntry, 30> kFilters = {{
    {"trim", Trim},
    {"length", Length},
    {"count", Length},
    {"upper", MapText<ToUpper>},
    {"lower", MapText<ToLower>},
    {"capitalize", MapText<Capitalize>},
    {"title", MapText<ToTitle>},
    {"string", ToStringFilter},
    {"join", Join},
    {"tojson", ToJsonFilter},
    {"default", Default},
    {"d", Default},
    {"first", First},
    {"last", Last},
    {"list", ToList},
    {"items", Items},
    {"int", ToInt},
    {"float", ToFloat},
    {"replace", Replace},
    {"select",
     [](const Value& i, const Arguments& a, Budget* b) { return Choose(i, a, b, false, true); }},
    {"reject",
     [](const Value& i, const Arguments& a, Budget* b) { return Choose(i, a, b, false, false); }},
    {"selectattr",
     [](const Value& i, const Arguments& a, Budget* b) { return Choose(i, a, b, true, true); }},
    {"rejectattr",
     [](const Value& i, const Arguments& a, Budget* b) { return Choose(i, a, b, true, false); }},
    {"map", Map},
    {"abs", Absolute},
    {"reverse", Reverse},
    {"unique", Unique},
    {"sum", Sum},
    {"indent", Indent},
    {"safe", Same},
}};

const FilterEntry* FindFilter(std::string_view name) {
  const auto found = std::ranges::find(kFilters, name, &FilterEntry::name);
  return found == kFilters.end() || name.empty() ? nullptr : &*found;
}

int64_t RequireInteger(const Value& value) {
  int64_t scratch = 0;
  if (const int64_t* integer = IfInteger(value, &scratch)) return *integer;
  throw Failure(std::string("the test needs an int, not a ") + value.TypeName());
}

bool IsBool(const Value& value, bool wanted) {
  return value.If<bool>() && *value.If<bool>() == wanted;
}

bool IsDivisible(const Value& a, const Value& b, Budget*) {
  const int64_t divisor = RequireInteger(b);
  if (divisor == 0) throw Failure("divisibleby 0");
  return divisor == -1 || RequireInteger(a) % divisor == 0;
}

template <Operator kOperator>
bool CompareTest(const Value& a, const Value& b, Budget* budget) {
  return Compare(kOperator, a, b, budget);
}

constexpr std::array<TestEntry, 33> kTests = {{
    {"defined", [](const Value& v, const Value&, Budget*) { return !v.IsUndefined(); }},
    {"undefined", [](const Value& v, const Value&, Budget*) { return v.IsUndefined(); }},
    {"none", [](const Value& v, const Value&, Budget*) { return v.IsNone(); }},
    {"string", [](const Value& v, const Value&, Budget*) { return v.IsString(); }},
    {"mapping", [](const Value& v, const Value&, Budget*) { return v.IfDict() != nullptr; }},
    {"iterable",
     [](const Value& v, const Value&, Budget*) {
       return v.IsUndefined() || v.IsString() || v.IfList() || v.IfDict();
     }},
    {"sequence",
     [](const Value& v, const Value&, Budget*) {
       const bool generator = v.IfList() && v.IfList()->form == List::Form::kGenerator;
       return !generator && (v.IsUndefined() || v.IsString() || v.IfList() || v.IfDict());
     }},
    {"number", [](const Value& v, const Value&, Budget*) { return IsNumber(v); }},
    {"integer", [](const Value& v, const Value&, Budget*) { return v.If<int64_t>() != nullptr; }},
    {"float", [](const Value& v, const Value&, Budget*) { return v.If<double>() != nullptr; }},
    {"boolean", [](const Value& v, const Value&, Budget*) { return v.If<bool>() != nullptr; }},
    {"true", [](const Value& v, const Value&, Budget*) { return IsBool(v, true); }},
    {"false", [](const Value& v, const Value&, Budget*) { return IsBool(v, false); }},
    {"odd", [](const Value& v, const Value&, Budget*) { return RequireInteger(v) % 2 != 0; }},
    {"even", [](const Value& v, const Value&, Budget*) { return RequireInteger(v) % 2 == 0; }},
    {"callable", [](const Value& v, const Value&,
                    Budget*) { return v.If<std::shared_ptr<const Callable>>() != nullptr; }},
    {"upper",
     [](const Value& v, const Value&, Budget*) {
       const std::string text = ToText(v);
       return ToUpper(text) == text && ToLower(text) != text;
     }},
    {"lower",
     [](const Value& v, const Value&, Budget*) {
       const std::string text = ToText(v);
       return ToLower(text) == text && ToUpper(text) != text;
     }},
    {"divisibleby", IsDivisible, true},
    {"in", CompareTest<Operator::kIn>, true},
    {"eq", CompareTest<Operator::kEqual>, true},
    {"equalto", CompareTest<Operator::kEqual>, true},
    {"==", CompareTest<Operator::kEqual>, true},
    {"ne", CompareTest<Operator::kNotEqual>, true},
    {"!=", CompareTest<Operator::kNotEqual>, true},
    {"lt", CompareTest<Operator::kLess>, true},
    {"le", CompareTest<Operator::kLessEqual>, true},
    {"gt", CompareTest<Operator::kGreater>, true},
    {"ge", CompareTest<Operator::kGreaterEqual>, true},
    {"<", CompareTest<Operator::kLess>, true},
    {"<=", CompareTest<Operator::kLessEqual>, true},
    {">", CompareTest<Operator::kGreater>, true},
    {">=", CompareTest<Operator::kGreaterEqual>, true},
}};

const TestEntry* FindTest(std::string_view name) {
  const auto found = std::ranges::find(kTests, name, &TestEntry::name);
  return found == kTests.end() || name.empty() ? nullptr : &*found;
}

}  // namespace

bool IsFilterName(std::string_view name) {
  return FindFilter(name) != nullptr;
}

Value ApplyFilter(std::string_view name, const Value& input, const Arguments& arguments,
                  Budget* budget) {
  return FindFilter(name)->filter(input, arguments, budget);
}

bool IsTestName(std::string_view name) {
  return FindTest(name) != nullptr;
}

bool TestTakesArgument(std::string_view name) {
  return FindTest(name)->takes_argument;
}

bool ApplyTest(std::string_view name, const Value& input, const std::vector<Value>& arguments,
               Budget* budget) {
  const TestEntry& entry = *FindTest(name);
  if (arguments.size() != (entry.takes_argument ? 1u : 0u)) {
    throw Failure("the test " + std::string(name) + " got " + std::to_string(arguments.size()) +
                  " arguments");
  }
  return entry.test(input, entry.takes_argument ? arguments.front() : input, budget);
}

}  // namespace sluice::jinja
