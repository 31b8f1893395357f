#include "chat/jinja_methods.h"

#include <algorithm>
#include <array>

#include "chat/jinja_text.h"

namespace sluice::jinja {
namespace {

using Method = Value (*)(const Value& self, const Arguments& arguments, Budget* budget);

struct Entry {
  std::string_view name;
  Method method;
};

Value Strip(const Value& self, const Arguments& arguments, bool left, bool right) {
  arguments.Check("strip", {"chars"});
  if (const Value* chars = arguments.Find(0, "chars"); chars != nullptr && !chars->IsNone()) {
    return Value::String(StripAnyOf(self.Text(), arguments.Text(0, "chars"), left, right));
  }
  std::string text = self.Text();
  if (left) text = StripLeft(text);
  if (right) text = StripRight(text);
  return Value::String(std::move(text));
}

// Splits at runs of blanks.
std::vector<std::string> SplitAtBlanks(const std::string& text, int64_t limit) {
  std::vector<std::string> parts;
  std::string rest = StripLeft(text);
  while (!rest.empty()) {
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
      parts.push_back(StripRight(rest));
      break;
    }
    const std::vector<std::string> characters = CharactersOf(rest);
    std::string word;
    for (const std::string& c : characters) {
      if (StripLeft(c).empty()) break;
      word += c;
    }
    rest = StripLeft(std::string_view(rest).substr(word.size()));
    parts.push_back(std::move(word));
  }
  return parts;
}

std::vector<std::string> SplitAt(std::string_view text, std::string_view separator, int64_t limit) {
  std::vector<std::string> parts;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    const size_t at = text.find(separator);
    if (at == text.npos) break;
    parts.emplace_back(text.substr(0, at));
    text.remove_prefix(at + separator.size());
  }
  parts.emplace_back(text);
  return parts;
}

std::vector<std::string> SplitAtFromRight(std::string_view text, std::string_view separator,
                                          int64_t limit) {
  std::vector<std::string> parts;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    const size_t at = text.rfind(separator);
    if (at == text.npos) break;
    parts.emplace_back(text.substr(at + separator.size()));
    text = text.substr(0, at);
  }
  parts.emplace_back(text);
  std::ranges::reverse(parts);
  return parts;
}

Value ListOf(std::vector<std::string> parts, Budget* budget) {
  budget->Bytes(parts.size() * 2 * sizeof(Value));
  std::vector<Value> items;
  for (std::string& part : parts) items.push_back(Value::String(std::move(part)));
  return Value::Of(std::move(items));
}

Value Split(const Value& self, const Arguments& arguments, Budget* budget, bool from_right) {
  arguments.Check("split", {"sep", "maxsplit"});
  budget->Bytes(self.Text().size());
  const int64_t limit = arguments.Integer(1, "maxsplit", -1);
  const Value* separator = arguments.Find(0, "sep");
  if (separator == nullptr || separator->IsNone()) {
    if (from_right && limit >= 0) {
      throw Error(ErrorCode::kUnsupported,
                  "chat template: rsplit with maxsplit and no separator is not supported");
    }
    return ListOf(SplitAtBlanks(self.Text(), limit), budget);
  }
  const std::string& text = arguments.Text(0, "sep");
  if (text.empty()) throw Failure("split with an empty separator");
  return ListOf(
      from_right ? SplitAtFromRight(self.Text(), text, limit) : SplitAt(self.Text(), text, limit),
      budget);
}

bool HasAffix(const Value& self, const Arguments& arguments, bool at_start) {
  arguments.Check(at_start ? "startswith" : "endswith", {"affix"});
  const Value* affix = arguments.Find(0, "affix");
  if (affix != nullptr && affix->IfList() != nullptr) {
    return std::ranges::any_of(affix->IfList()->items, [&](const Value& one) {
      return HasAffix(self, Arguments{.positional = {one}, .named = {}}, at_start);
    });
  }
  const std::string& text = arguments.Text(0, "affix");
  return at_start ? self.Text().starts_with(text) : self.Text().ends_with(text);
}

Value Find(const Value& self, const Arguments& arguments, bool from_right) {
  arguments.Check("find", {"sub"});
  const std::string& text = self.Text();
  const size_t at =
      from_right ? text.rfind(arguments.Text(0, "sub")) : text.find(arguments.Text(0, "sub"));
  if (at == text.npos) return Value::Int(-1);
  return Value::Int(static_cast<int64_t>(LengthOf(std::string_view(text).substr(0, at))));
}

Value Count(const Value& self, const Arguments& arguments, Budget*) {
  arguments.Check("count", {"sub"});
  const std::string& sub = arguments.Text(0, "sub");
  if (sub.empty()) return Value::Int(static_cast<int64_t>(LengthOf(self.Text())) + 1);
  return Value::Int(static_cast<int64_t>(SplitAt(self.Text(), sub, -1).size()) - 1);
}

Value Replace(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.Check("replace", {"old", "new", "count"});
  const std::string& from = arguments.Text(0, "old");
  const std::string& to = arguments.Text(1, "new");
  const uint64_t most = self.Text().size() / std::max<size_t>(from.size(), 1) + 1;
  budget->Bytes(self.Text().size() + most * to.size());
  return Value::String(ReplaceAll(self.Text(), from, to, arguments.Integer(2, "count", -1)));
}

Value Join(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.Check("join", {"iterable"});
  std::string text;
  bool first = true;
  for (const Value& item : ItemsOf(arguments.Get(0, "iterable", Value()), budget)) {
    if (!item.IsString()) throw Failure(std::string("join needs str, not ") + item.TypeName());
    budget->Bytes(item.Text().size() + self.Text().size());
    if (!std::exchange(first, false)) text += self.Text();
    text += item.Text();
  }
  return Value::String(std::move(text));
}

Value SplitLines(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.Check("splitlines", {});
  budget->Bytes(self.Text().size());
  std::vector<std::string> lines;
  std::string_view text = self.Text();
  while (!text.empty()) {
    const size_t end = std::min(text.find_first_of("\n\r\v\f"), text.size());
    lines.emplace_back(text.substr(0, end));
    const bool pair = text.substr(end).starts_with("\r\n");
    text.remove_prefix(std::min(end + (pair ? 2 : 1), text.size()));
  }
  return ListOf(std::move(lines), budget);
}

// Drops the prefix or suffix where it is there.
Value RemoveAffix(const Value& self, const Arguments& arguments, bool at_start) {
  const std::string& affix = arguments.Text(0, "affix");
  if (!HasAffix(self, arguments, at_start)) return self;
  const size_t rest = self.Text().size() - affix.size();
  return Value::String(self.Text().substr(at_start ? affix.size() : 0, rest));
}

template <auto kMap>
Value MapText(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.Check("a method of case", {});
  // A code point may take one byte more in the other case, or two.
  budget->Bytes(self.Text().size() * 2);
  return Value::String(kMap(self.Text()));
}

Value IsDigits(const Value& self, const Arguments& arguments, Budget*) {
  arguments.Check("isdigit", {});
  const std::string& text = self.Text();
  return Value::Bool(!text.empty() &&
                     std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; }));
}

constexpr std::array<Entry, 20> kStringMethods = {{
    {"strip", [](const Value& s, const Arguments& a, Budget*) { return Strip(s, a, true, true); }},
    {"lstrip",
     [](const Value& s, const Arguments& a, Budget*) { return Strip(s, a, true, false); }},
    {"rstrip",
     [](const Value& s, const Arguments& a, Budget*) { return Strip(s, a, false, true); }},
    {"split", [](const Value& s, const Arguments& a, Budget* b) { return Split(s, a, b, false); }},
    {"rsplit", [](const Value& s, const Arguments& a, Budget* b) { return Split(s, a, b, true); }},
    {"splitlines", SplitLines},
    {"startswith",
     [](const Value& s, const Arguments& a, Budget*) { return Value::Bool(HasAffix(s, a, true)); }},
    {"endswith", [](const Value& s, const Arguments& a,
                    Budget*) { return Value::Bool(HasAffix(s, a, false)); }},
    {"removeprefix",
     [](const Value& s, const Arguments& a, Budget*) { return RemoveAffix(s, a, true); }},
    {"removesuffix",
     [](const Value& s, const Arguments& a, Budget*) { return RemoveAffix(s, a, false); }},
    {"upper", MapText<ToUpper>},
    {"lower", MapText<ToLower>},
    {"capitalize", MapText<Capitalize>},
    {"title", MapText<ToTitle>},
    {"replace", Replace},
    {"find", [](const Value& s, const Arguments& a, Budget*) { return Find(s, a, false); }},
    {"rfind", [](const Value& s, const Arguments& a, Budget*) { return Find(s, a, true); }},
    {"count", Count},
    {"join", Join},
    {"isdigit", IsDigits},
}};

Value Get(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.Check("get", {"key", "default"});
  const Dict& dict = *self.IfDict();
  budget->Step(dict.entries.size() / 16);
  const Value* found = dict.Find(arguments.Get(0, "key", Value()));
  return found != nullptr ? *found : arguments.Get(1, "default", Value());
}

Value Items(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.Check("items", {});
  const Dict& dict = *self.IfDict();
  budget->Bytes(dict.entries.size() * 4 * sizeof(Value));
  std::vector<Value> items;
  for (const auto& [key, value] : dict.entries) {
    items.push_back(Value::Of({key, value}, List::Form::kTuple));
  }
  return Value::Of(std::move(items));
}

Value Keys(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.Check("keys", {});
  return Value::Of(ItemsOf(self, budget));
}

Value Values(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.Check("values", {});
  const Dict& dict = *self.IfDict();
  budget->Bytes(dict.entries.size() * sizeof(Value));
  std::vector<Value> items;
  for (const auto& [key, value] : dict.entries) items.push_back(value);
  return Value::Of(std::move(items));
}

constexpr std::array<Entry, 4> kDictMethods = {
    {{"get", Get}, {"items", Items}, {"keys", Keys}, {"values", Values}}};

Value Cycle(const Value& self, const Arguments& arguments, Budget*) {
  const Loop& loop = **self.If<std::shared_ptr<Loop>>();
  if (arguments.positional.empty()) throw Failure("loop.cycle needs arguments");
  return arguments.positional[loop.index % arguments.positional.size()];
}

constexpr std::array<Entry, 1> kLoopMethods = {{{"cycle", Cycle}}};

template <size_t kCount>
Method FindIn(const std::array<Entry, kCount>& entries, std::string_view name) {
  const auto found = std::ranges::find(entries, name, &Entry::name);
  return found == entries.end() ? nullptr : found->method;
}

Method FindEntry(const Value& value, std::string_view name) {
  if (value.IsString()) return FindIn(kStringMethods, name);
  if (value.IfDict()) return FindIn(kDictMethods, name);
  if (value.If<std::shared_ptr<Loop>>()) return FindIn(kLoopMethods, name);
  return nullptr;
}

}  // namespace

bool IsMethodName(std::string_view name) {
  return FindIn(kStringMethods, name) || FindIn(kDictMethods, name) || FindIn(kLoopMethods, name);
}

std::optional<Value> FindMethod(const Value& value, const std::string& name) {
  if (FindEntry(value, name) == nullptr) return std::nullopt;
  auto method = std::make_shared<Callable>();
  method->kind = Callable::Kind::kMethod;
  method->name = name;
  method->self = value;
  return Value(Value::Storage(std::shared_ptr<const Callable>(std::move(method))));
}

Value CallMethod(const Callable& method, const Arguments& arguments, Budget* budget) {
  if (method.self.IsString()) budget->Step(method.self.Text().size() / 256);
  return FindEntry(method.self, method.name)(method.self, arguments, budget);
}

}  // namespace sluice::jinja
