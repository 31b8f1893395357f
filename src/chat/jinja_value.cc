#include "chat/jinja_value.h"

#include <algorithm>

#include "base/error.h"

namespace sluice::jinja {
namespace {

int DepthOf(const Value& value) {
  if (const List* list = value.IfList()) return list->depth;
  if (const Dict* dict = value.IfDict()) return dict->depth;
  if (const auto* generator = value.If<std::shared_ptr<Generator>>()) return (*generator)->depth;
  return 0;
}

int CheckedDepth(int inner) {
  if (inner < kMaxDepth) return inner + 1;
  throw Error(ErrorCode::kInvalidArgument,
              "chat template: values nest over " + std::to_string(kMaxDepth) + " levels deep");
}

// Lists equal lists, tuples tuples, ranges ranges; the views of dicts only themselves, but for
// keys and items, which are sets.
bool ListsEqual(const List& a, const List& b, Budget* budget) {
  if (&a == &b) return true;
  const bool same_kind = a.IsTuple() ? b.IsTuple() : a.form == b.form;
  if (!same_kind || a.form == List::Form::kValuesView || a.items.size() != b.items.size()) {
    return false;
  }
  if (a.form == List::Form::kKeysView || a.form == List::Form::kItemsView) {
    return std::ranges::all_of(a.items, [&](const Value& item) {
      return std::ranges::any_of(b.items,
                                 [&](const Value& other) { return Equals(item, other, budget); });
    });
  }
  for (size_t i = 0; i < a.items.size(); ++i) {
    if (!Equals(a.items[i], b.items[i], budget)) return false;
  }
  return true;
}

bool DictsEqual(const Dict& a, const Dict& b, Budget* budget) {
  if (a.entries.size() != b.entries.size()) return false;
  budget->Step(a.entries.size() * b.entries.size() / 16);
  return std::ranges::all_of(a.entries, [&](const auto& entry) {
    const Value* other = b.Find(entry.first);
    return other != nullptr && Equals(entry.second, *other, budget);
  });
}

// Equality of what may be a key.
bool KeysEqual(const Value& a, const Value& b) {
  Budget budget;
  return Equals(a, b, &budget);
}

// The most items of a tuple that is a key.
constexpr size_t kMaxKeyItems = 16;

}  // namespace

const Value* Dict::Find(const Value& key) const {
  if (key.IsString()) return Find(key.Text());
  for (const auto& [name, value] : entries) {
    if (KeysEqual(name, key)) return &value;
  }
  return nullptr;
}

const Value* Dict::Find(std::string_view key) const {
  for (const auto& [name, value] : entries) {
    if (name.IsString() && name.Text() == key) return &value;
  }
  return nullptr;
}

void Dict::Set(const Value& key, Value value) {
  if (const Value* found = Find(key)) {
    *const_cast<Value*>(found) = std::move(value);
  } else {
    entries.emplace_back(key, std::move(value));
  }
}

void CheckStorable(const Value& value) {
  const auto* callable = value.If<std::shared_ptr<const Callable>>();
  const bool is_method = callable != nullptr && (*callable)->kind == Callable::Kind::kMethod;
  if (!is_method && !value.If<std::shared_ptr<Namespace>>() && !value.If<std::shared_ptr<Loop>>()) {
    return;
  }
  throw Error(ErrorCode::kUnsupported, std::string("chat template: putting a ") + value.TypeName() +
                                           " into a container is not supported");
}

bool IsHashable(const Value& key) {
  const List* list = key.IfList();
  if (list == nullptr) return key.IfDict() == nullptr;
  if (list->IsTuple()) return std::ranges::all_of(list->items, IsHashable);
  return list->form == List::Form::kRange || list->form == List::Form::kValuesView;
}

void CheckKey(const Value& key) {
  if (!IsHashable(key)) {
    throw Error(ErrorCode::kInvalidArgument,
                std::string("chat template: unhashable type: ") + key.TypeName());
  }
  if (key.IfList() == nullptr) return;
  const List& tuple = *key.IfList();
  if (tuple.depth > 1 || tuple.items.size() > kMaxKeyItems) {
    throw Error(ErrorCode::kUnsupported, "chat template: this tuple as a key is not supported");
  }
}

Value Value::Lazy(std::function<std::optional<Value>(Budget*)> next,
                  const std::vector<Value>& captured) {
  int depth = 0;
  for (const Value& value : captured) {
    CheckStorable(value);
    depth = std::max(depth, DepthOf(value));
  }
  return Storage(std::make_shared<Generator>(
      Generator{.next = std::move(next), .depth = CheckedDepth(depth)}));
}

Value Value::Of(std::vector<Value> items, List::Form form) {
  int depth = 0;
  for (const Value& item : items) {
    CheckStorable(item);
    depth = std::max(depth, DepthOf(item));
  }
  return Storage(std::make_shared<const List>(
      List{.items = std::move(items), .form = form, .depth = CheckedDepth(depth)}));
}

Value Value::Of(Dict dict) {
  int depth = 0;
  for (const auto& [key, value] : dict.entries) {
    CheckStorable(value);
    depth = std::max({depth, DepthOf(key), DepthOf(value)});
  }
  dict.depth = CheckedDepth(depth);
  return Storage(std::make_shared<const Dict>(std::move(dict)));
}

const char* List::TypeName() const {
  static constexpr const char* kForms[] = {"list",      "tuple",       "tuple",     "range",
                                           "dict_keys", "dict_values", "dict_items"};
  return kForms[static_cast<size_t>(form)];
}

const char* Value::TypeName() const {
  static constexpr const char* kNames[] = {"undefined value", "None", "bool",     "int",
                                           "float",           "str",  "list",     "dict",
                                           "namespace",       "loop", "callable", "generator"};
  if (const List* list = IfList()) return list->TypeName();
  return kNames[storage_.index()];
}

bool IsTrue(const Value& value) {
  if (value.IsUndefined() || value.IsNone()) return false;
  if (const bool* flag = value.If<bool>()) return *flag;
  if (const int64_t* integer = value.If<int64_t>()) return *integer != 0;
  if (const double* number = value.If<double>()) return *number != 0;
  if (value.IsString()) return !value.Text().empty();
  if (const List* list = value.IfList()) return !list->items.empty();
  if (const Dict* dict = value.IfDict()) return !dict->entries.empty();
  return true;
}

const int64_t* IfInteger(const Value& value, int64_t* scratch) {
  if (const bool* flag = value.If<bool>()) {
    *scratch = *flag ? 1 : 0;
    return scratch;
  }
  return value.If<int64_t>();
}

bool IsNumber(const Value& value) {
  return value.If<bool>() || value.If<int64_t>() || value.If<double>();
}

double AsDouble(const Value& value) {
  if (const double* number = value.If<double>()) return *number;
  int64_t scratch = 0;
  return static_cast<double>(*IfInteger(value, &scratch));
}

bool Equals(const Value& a, const Value& b, Budget* budget) {
  int64_t scratch_a = 0;
  int64_t scratch_b = 0;
  const int64_t* integer_a = IfInteger(a, &scratch_a);
  const int64_t* integer_b = IfInteger(b, &scratch_b);
  if (integer_a && integer_b) return *integer_a == *integer_b;
  if (IsNumber(a) && IsNumber(b)) return AsDouble(a) == AsDouble(b);
  if (a.IsString() && b.IsString()) return a.Text() == b.Text();
  if (a.IfList() && b.IfList()) {
    budget->Step();
    return ListsEqual(*a.IfList(), *b.IfList(), budget);
  }
  if (a.IfDict() && b.IfDict()) {
    budget->Step();
    return DictsEqual(*a.IfDict(), *b.IfDict(), budget);
  }
  if ((a.IsNone() && b.IsNone()) || (a.IsUndefined() && b.IsUndefined())) return true;
  return a.IsSameObject(b);
}

bool Value::IsSameObject(const Value& other) const {
  return std::visit(
      [](const auto& a, const auto& b) {
        using A = std::decay_t<decltype(a)>;
        if constexpr (!std::is_same_v<A, std::decay_t<decltype(b)>>) {
          return false;
        } else if constexpr (requires { a.get(); }) {
          return a.get() == b.get();
        } else if constexpr (requires { a == b; }) {
          return a == b;
        } else {
          return true;  // undefined values and None
        }
      },
      storage_, other.storage_);
}

}  // namespace sluice::jinja
