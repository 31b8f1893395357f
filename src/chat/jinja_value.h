#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "chat/jinja_budget.h"

namespace sluice::jinja {

// The values of a template, with Python's meaning. Strings, lists and dicts are immutable and
// shared; only a namespace and what a generator has left change, and no container may hold a
// namespace, so that values form no cycle.

class Value;
struct MacroStatement;
struct Scope;
struct Statement;

struct Undefined {
  std::string name;  // what was looked up, for messages
  // Set for what Jinja's sandbox keeps from templates, such as the methods that change a list.
  bool unsafe = false;
};
struct None {};

struct List {
  // kGroup is the tuple (grouper, list) of groupby; the views are what a dict's methods give.
  enum class Form { kList, kTuple, kGroup, kRange, kKeysView, kValuesView, kItemsView };
  std::vector<Value> items;
  Form form = Form::kList;
  int depth = 1;                             // levels of containers
  std::array<int64_t, 3> range = {0, 0, 1};  // start, stop and step of a range

  const char* TypeName() const;
  bool IsTuple() const { return form == Form::kTuple || form == Form::kGroup; }
  // Whether it has an order to index by.
  bool IsSequence() const { return form <= Form::kRange; }
};

struct Dict {
  std::vector<std::pair<Value, Value>> entries;  // in order of insertion
  int depth = 1;

  // Precondition: CheckKey(key).
  const Value* Find(const Value& key) const;
  const Value* Find(std::string_view key) const;
  void Set(const Value& key, Value value);
};

struct Namespace {
  Dict attributes;
};

// What a lazy filter gives: its items are made when they are asked for, and only once.
struct Generator {
  std::function<std::optional<Value>(Budget*)> next;  // nothing at the end
  int depth = 1;
};

// The `loop` variable of a running for.
struct Loop;

struct Callable;

using StringPtr = std::shared_ptr<const std::string>;
using ListPtr = std::shared_ptr<const List>;
using DictPtr = std::shared_ptr<const Dict>;

class Value {
 public:
  using Storage = std::variant<Undefined, None, bool, int64_t, double, StringPtr, ListPtr, DictPtr,
                               std::shared_ptr<Namespace>, std::shared_ptr<Loop>,
                               std::shared_ptr<const Callable>, std::shared_ptr<Generator>>;

  Value() : storage_(None{}) {}
  // Any alternative of the variant is a value.
  Value(Storage storage)  // NOLINT(google-explicit-constructor)
      : storage_(std::move(storage)) {}
  static Value Bool(bool value) { return Storage(value); }
  static Value Int(int64_t value) { return Storage(value); }
  static Value Float(double value) { return Storage(value); }
  static Value String(std::string value) {
    return Storage(std::make_shared<const std::string>(std::move(value)));
  }
  static Value NotDefined(std::string name) { return Storage(Undefined{std::move(name)}); }
  static Value Unsafe(std::string name) { return Storage(Undefined{std::move(name), true}); }
  // Throws Error(kInvalidArgument) when the nesting passes kMaxDepth, Error(kUnsupported) when an
  // item may not stand in a container.
  static Value Of(std::vector<Value> items, List::Form form = List::Form::kList);
  static Value Of(Dict dict);
  // The numbers `items` of a range.
  static Value Range(std::vector<Value> items, std::array<int64_t, 3> range) {
    return Storage(std::make_shared<const List>(
        List{.items = std::move(items), .form = List::Form::kRange, .depth = 1, .range = range}));
  }
  // A generator that keeps `captured`. Throws as the above.
  static Value Lazy(std::function<std::optional<Value>(Budget*)> next,
                    const std::vector<Value>& captured);

  template <class T>
  const T* If() const {
    return std::get_if<T>(&storage_);
  }
  bool IsUndefined() const { return If<Undefined>() != nullptr; }
  bool IsNone() const { return If<None>() != nullptr; }
  bool IsString() const { return If<StringPtr>() != nullptr; }
  const List* IfList() const { return If<ListPtr>() ? If<ListPtr>()->get() : nullptr; }
  const Dict* IfDict() const { return If<DictPtr>() ? If<DictPtr>()->get() : nullptr; }
  // Precondition: IsString().
  const std::string& Text() const { return **If<StringPtr>(); }

  // Python's `is`, where two numbers of one value are one.
  bool IsSameObject(const Value& other) const;

  // "str", "dict", "undefined": for messages.
  const char* TypeName() const;

 private:
  Storage storage_;
};

struct Loop {
  std::shared_ptr<const List> items;
  size_t index = 0;
  int64_t depth0 = 0;
  std::optional<Value> changed;  // the arguments of the last loop.changed(), a tuple
  // What loop(...) runs again: a recursive for and where it stands; null for another for.
  const Statement* statement = nullptr;
  std::weak_ptr<Scope> scope;
};

// What a call may name: a macro, a function of the environment, or a method with its object.
struct Callable {
  enum class Kind { kMacro, kFunction, kMethod };
  Kind kind;
  std::string name;
  const MacroStatement* macro = nullptr;
  std::weak_ptr<Scope> scope;  // where the macro was defined
  Value self;
};

// Levels of containers: JSON that comes in has at most 32.
inline constexpr int kMaxDepth = 64;

// Throws Error(kUnsupported) for what may not be put into a container or namespace.
void CheckStorable(const Value& value);

// Whether Python can hash it.
bool IsHashable(const Value& key);
// Throws Error(kInvalidArgument) for what it cannot hash, and Error(kUnsupported) for tuples
// that are not small and flat.
void CheckKey(const Value& key);

bool IsTrue(const Value& value);
// Charges nothing for comparing what is neither list nor dict.
bool Equals(const Value& a, const Value& b, Budget* budget);
// An int or bool as an integer.
const int64_t* IfInteger(const Value& value, int64_t* scratch);
bool IsNumber(const Value& value);
// Precondition: IsNumber(value).
double AsDouble(const Value& value);

}  // namespace sluice::jinja
