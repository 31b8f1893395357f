#include "chat/jinja_value.h"

#include <algorithm>

#include "base/error.h"

namespace sluice::jinja {
namespace {

int DepthOf(const Value& value) {
  if (const List* list = value.IfList()) return list->depth;
  if (const Dict* dict = value.IfDict()) return dict->depth;
  return 0;
}

int CheckedDepth(int inner) {
  if (inner < kMaxDepth) return inner + 1;
  throw Error(ErrorCode::kInvalidArgument,
              "chat template: values nest over " + std::to_string(kMaxDepth) + " levels deep");
}

bool ListsEqual(const List& a, const List& b) {
  return a.form == b.form && std::ranges::equal(a.items, b.items, Equals);
}

bool DictsEqual(const Dict& a, const Dict& b) {
  return a.entries.size() == b.entries.size() &&
         std::ranges::all_of(a.entries, [&](const auto& entry) {
           const Value* other = b.Find(entry.first);
           return other != nullptr && Equals(entry.second, *other);
         });
}

}  // namespace

const Value* Dict::Find(const Value& key) const {
  for (const auto& [name, value] : entries) {
    if (Equals(name, key)) return &value;
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

const char* Value::TypeName() const {
  static constexpr const char* kNames[] = {"undefined value", "None", "bool",    "int",
                                           "float",           "str",  "list",    "dict",
                                           "namespace",       "loop", "callable"};
  return kNames[storage_.index()];
}

bool IsTrue(const Value& value) {
  if (value.IsUndefined() || value.IsNone()) return false;
  if (const bool* flag = value.If<bool>()) return *flag;
  if (const int64_t* integer = value.If<int64_t>()) return *integer != 0;
  if (const double* number = value.If<double>()) return *number != 0;
  if (value.IsString()) return !value.Text().empty();
  if (const List* list = value.IfList()) {
    return list->form == List::Form::kGenerator || !list->items.empty();
  }
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

bool Equals(const Value& a, const Value& b) {
  int64_t scratch_a = 0;
  int64_t scratch_b = 0;
  const int64_t* integer_a = IfInteger(a, &scratch_a);
  const int64_t* integer_b = IfInteger(b, &scratch_b);
  if (integer_a && integer_b) return *integer_a == *integer_b;
  if (IsNumber(a) && IsNumber(b)) return AsDouble(a) == AsDouble(b);
  if (a.IsString() && b.IsString()) return a.Text() == b.Text();
  if (a.IfList() && b.IfList()) return ListsEqual(*a.IfList(), *b.IfList());
  if (a.IfDict() && b.IfDict()) return DictsEqual(*a.IfDict(), *b.IfDict());
  return (a.IsNone() && b.IsNone()) || (a.IsUndefined() && b.IsUndefined());
}

}  // namespace sluice::jinja
