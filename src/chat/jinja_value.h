#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace sluice::jinja {

// The values of a template, with Python's meaning. Strings, lists and dicts are immutable and
// shared; only a namespace changes, and no container may hold one, so that values form no cycle.

class Value;
struct MacroStatement;
struct Scope;

struct Undefined {
  std::string name;  // what was looked up, for messages
};
struct None {};

struct List {
  enum class Form { kList, kTuple, kGenerator };
  std::vector<Value> items;
  Form form = Form::kList;
  int depth = 1;  // levels of containers
};

struct Dict {
  std::vector<std::pair<Value, Value>> entries;  // in order of insertion
  int depth = 1;

  const Value* Find(const Value& key) const;
  const Value* Find(std::string_view key) const;
  void Set(const Value& key, Value value);
};

struct Namespace {
  Dict attributes;
};

// The `loop` variable of a running for.
struct Loop {
  std::shared_ptr<const List> items;
  size_t index = 0;
};

struct Callable;

using StringPtr = std::shared_ptr<const std::string>;
using ListPtr = std::shared_ptr<const List>;
using DictPtr = std::shared_ptr<const Dict>;

class Value {
 public:
  using Storage = std::variant<Undefined, None, bool, int64_t, double, StringPtr, ListPtr, DictPtr,
                               std::shared_ptr<Namespace>, std::shared_ptr<Loop>,
                               std::shared_ptr<const Callable>>;

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
  // Throws Error(kInvalidArgument) when the nesting passes kMaxDepth, Error(kUnsupported) when an
  // item may not stand in a container.
  static Value Of(std::vector<Value> items, List::Form form = List::Form::kList);
  static Value Of(Dict dict);

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

  // "str", "dict", "undefined": for messages.
  const char* TypeName() const;

 private:
  Storage storage_;
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

bool IsTrue(const Value& value);
bool Equals(const Value& a, const Value& b);
// An int or bool as an integer.
const int64_t* IfInteger(const Value& value, int64_t* scratch);
bool IsNumber(const Value& value);
// Precondition: IsNumber(value).
double AsDouble(const Value& value);

}  // namespace sluice::jinja
