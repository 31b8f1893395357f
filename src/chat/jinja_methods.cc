#include "chat/jinja_methods.h"

#include <algorithm>
#include <array>

namespace sluice::jinja {
namespace {

Value Get(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.CheckPositional("get", 1, 2);
  const Dict& dict = *self.IfDict();
  CheckKey(arguments.positional[0]);
  budget->Step(dict.entries.size() / 16);
  const Value* found = dict.Find(arguments.positional[0]);
  return found != nullptr ? *found : arguments.Get(1, "", Value());
}

Value Items(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.CheckPositional("items", 0, 0);
  return DictItems(*self.IfDict(), budget);
}

Value Keys(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.CheckPositional("keys", 0, 0);
  return Value::Of(ItemsOf(self, budget), List::Form::kKeysView);
}

Value Values(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.CheckPositional("values", 0, 0);
  const Dict& dict = *self.IfDict();
  budget->Bytes(dict.entries.size() * sizeof(Value));
  std::vector<Value> items;
  for (const auto& [key, value] : dict.entries) items.push_back(value);
  return Value::Of(std::move(items), List::Form::kValuesView);
}

Value Copy(const Value& self, const Arguments& arguments, Budget*) {
  arguments.CheckPositional("copy", 0, 0);
  return self;
}

Value CountItem(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.CheckPositional("count", 1, 1);
  int64_t count = 0;
  for (const Value& item : ItemsOf(self, budget)) {
    if (Equals(item, arguments.positional[0], budget)) ++count;
  }
  return Value::Int(count);
}

Value IndexOfItem(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.CheckPositional("index", 1, 3);
  const std::vector<Value> items = ItemsOf(self, budget);
  const auto size = static_cast<int64_t>(items.size());
  const auto clip = [&](int64_t index) {
    return std::clamp<int64_t>(index < 0 ? index + size : index, 0, size);
  };
  const int64_t end = clip(arguments.RequiredInteger(2, "stop", size));
  for (int64_t i = clip(arguments.RequiredInteger(1, "start", 0)); i < end; ++i) {
    if (Equals(items[static_cast<size_t>(i)], arguments.positional[0], budget)) {
      return Value::Int(i);
    }
  }
  throw Failure("index() of what is not in the list");
}

Value Cycle(const Value& self, const Arguments& arguments, Budget*) {
  const Loop& loop = **self.If<std::shared_ptr<Loop>>();
  if (arguments.positional.empty() || !arguments.named.empty()) {
    throw Failure("loop.cycle needs positional arguments");
  }
  return arguments.positional[loop.index % arguments.positional.size()];
}

// Whether the arguments are others than at the last call in this loop.
Value Changed(const Value& self, const Arguments& arguments, Budget* budget) {
  Loop& loop = **self.If<std::shared_ptr<Loop>>();
  if (!arguments.named.empty()) throw Failure("loop.changed takes positional arguments");
  Value now = Value::Of(arguments.positional, List::Form::kTuple);
  if (loop.changed && Equals(*loop.changed, now, budget)) return Value::Bool(false);
  loop.changed = std::move(now);
  return Value::Bool(true);
}

constexpr std::array<MethodEntry, 5> kDictMethods = {
    {{"get", Get}, {"items", Items}, {"keys", Keys}, {"values", Values}, {"copy", Copy}}};
constexpr std::array<MethodEntry, 3> kListMethods = {
    {{"copy", Copy}, {"count", CountItem}, {"index", IndexOfItem}}};
constexpr std::array<MethodEntry, 2> kTupleMethods = {
    {{"count", CountItem}, {"index", IndexOfItem}}};
constexpr std::array<MethodEntry, 2> kLoopMethods = {{{"cycle", Cycle}, {"changed", Changed}}};

// What changes an object, which Jinja's immutable sandbox does not let a template do.
constexpr std::array<std::string_view, 5> kDictChanges = {"clear", "pop", "popitem", "setdefault",
                                                          "update"};
constexpr std::array<std::string_view, 8> kListChanges = {"append", "clear", "pop",    "reverse",
                                                          "insert", "sort",  "extend", "remove"};

Method FindIn(std::span<const MethodEntry> entries, std::string_view name) {
  const auto found = std::ranges::find(entries, name, &MethodEntry::name);
  return found == entries.end() ? nullptr : found->method;
}

std::span<const MethodEntry> MethodsOf(const Value& value) {
  if (value.IsString()) return StringMethods();
  if (value.IfDict()) return kDictMethods;
  if (value.If<std::shared_ptr<Loop>>()) return kLoopMethods;
  const List* list = value.IfList();
  if (list == nullptr || !list->IsSequence()) return {};
  return list->form == List::Form::kList ? std::span<const MethodEntry>(kListMethods)
                                         : kTupleMethods;
}

std::span<const std::string_view> ChangesOf(const Value& value) {
  if (value.IfDict()) return kDictChanges;
  const List* list = value.IfList();
  if (list && list->form == List::Form::kList) return kListChanges;
  return {};
}

}  // namespace

bool IsUnsupportedMethod(std::string_view name) {
  static constexpr std::array<std::string_view, 14> kNames = {
      "encode",     "translate",        "maketrans",  "format_map", "fromkeys",
      "is_integer", "as_integer_ratio", "bit_length", "bit_count",  "conjugate",
      "hex",        "fromhex",          "to_bytes",   "from_bytes"};
  return std::ranges::find(kNames, name) != kNames.end();
}

std::optional<Value> FindMethod(const Value& value, const std::string& name) {
  const auto changes = ChangesOf(value);
  if (std::ranges::find(changes, name) != changes.end()) return Value::Unsafe(name);
  if (FindIn(MethodsOf(value), name) == nullptr) return std::nullopt;
  auto method = std::make_shared<Callable>();
  method->kind = Callable::Kind::kMethod;
  method->name = name;
  method->self = value;
  return Value(Value::Storage(std::shared_ptr<const Callable>(std::move(method))));
}

Value CallMethod(const Callable& method, const Arguments& arguments, Budget* budget) {
  if (method.self.IsString()) budget->Step(method.self.Text().size() / 256);
  return FindIn(MethodsOf(method.self), method.name)(method.self, arguments, budget);
}

}  // namespace sluice::jinja
