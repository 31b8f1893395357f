#include "chat/jinja_arguments.h"

#include <algorithm>

#include "chat/jinja_text.h"
#include "tokenizer/utf8.h"

namespace sluice::jinja {

Error Failure(const std::string& message) {
  return Error(ErrorCode::kInvalidArgument, "chat template: " + message);
}

Error UndefinedFailure(const Undefined& undefined) {
  if (undefined.unsafe) {
    return Failure("access to '" + undefined.name + "' is unsafe: a template changes no values");
  }
  return Failure("'" + undefined.name + "' is undefined");
}

void Arguments::Check(std::string_view callee,
                      const std::vector<std::string_view>& parameters) const {
  if (positional.size() > parameters.size()) {
    throw Failure(std::string(callee) + " takes at most " + std::to_string(parameters.size()) +
                  " arguments, got " + std::to_string(positional.size()));
  }
  for (const auto& [name, value] : named) {
    const auto found = std::ranges::find(parameters, name);
    if (found == parameters.end() ||
        found - parameters.begin() < static_cast<ptrdiff_t>(positional.size())) {
      throw Failure(std::string(callee) + " does not take the argument " + name);
    }
  }
}

void Arguments::CheckPositional(std::string_view callee, size_t least, size_t most) const {
  if (positional.size() >= least && positional.size() <= most && named.empty()) return;
  throw Failure(std::string(callee) + "() takes from " + std::to_string(least) + " to " +
                std::to_string(most) + " positional arguments, got " +
                std::to_string(positional.size()) +
                (named.empty() ? "" : " and the named " + named.front().first));
}

const Value* Arguments::Find(size_t index, std::string_view name) const {
  if (index < positional.size()) return &positional[index];
  for (const auto& [key, value] : named) {
    if (key == name) return &value;
  }
  return nullptr;
}

Value Arguments::Get(size_t index, std::string_view name, const Value& fallback) const {
  const Value* found = Find(index, name);
  return found != nullptr ? *found : fallback;
}

const std::string& Arguments::Text(size_t index, std::string_view name) const {
  const Value* found = Find(index, name);
  if (found == nullptr || !found->IsString()) {
    throw Failure("the argument " + std::string(name) + " must be a str, not " +
                  (found == nullptr ? "missing" : found->TypeName()));
  }
  return found->Text();
}

int64_t Arguments::Integer(size_t index, std::string_view name, int64_t fallback) const {
  const Value* found = Find(index, name);
  if (found == nullptr || found->IsNone()) return fallback;
  int64_t scratch = 0;
  if (const int64_t* integer = IfInteger(*found, &scratch)) return *integer;
  throw Failure("the argument " + std::string(name) + " must be an int, not " + found->TypeName());
}

int64_t Arguments::RequiredInteger(size_t index, std::string_view name,
                                   std::optional<int64_t> fallback) const {
  const Value* found = Find(index, name);
  if (found == nullptr ? !fallback.has_value() : found->IsNone()) {
    throw Failure("the argument " + std::string(name) + " must be an int");
  }
  return Integer(index, name, fallback.value_or(0));
}

Iterator::Iterator(Value value) : value_(std::move(value)) {
  const bool iterates = value_.IsUndefined() || value_.IsString() || value_.IfList() ||
                        value_.IfDict() || value_.If<std::shared_ptr<Generator>>();
  if (!iterates) throw Failure(std::string("a ") + value_.TypeName() + " cannot be iterated");
}

std::optional<Value> Iterator::Next(Budget* budget) {
  budget->Step();
  if (const auto* generator = value_.If<std::shared_ptr<Generator>>()) {
    return (*generator)->next(budget);
  }
  if (value_.IsString()) {
    const std::string& text = value_.Text();
    if (next_ == text.size()) return std::nullopt;
    const size_t begin = next_;
    NextCodePoint(text, &next_);
    budget->Bytes(2 * sizeof(Value));
    return Value::String(text.substr(begin, next_ - begin));
  }
  if (const List* list = value_.IfList(); list && next_ < list->items.size()) {
    return list->items[next_++];
  }
  if (const Dict* dict = value_.IfDict(); dict && next_ < dict->entries.size()) {
    return dict->entries[next_++].first;
  }
  return std::nullopt;
}

std::vector<Value> ItemsOf(const Value& value, Budget* budget) {
  if (const List* list = value.IfList()) {
    budget->Step(list->items.size());
    budget->Bytes(list->items.size() * sizeof(Value));
    return list->items;
  }
  std::vector<Value> items;
  Iterator iterator(value);
  while (std::optional<Value> item = iterator.Next(budget)) {
    budget->Bytes(sizeof(Value));
    items.push_back(*std::move(item));
  }
  return items;
}

Value DictItems(const Dict& dict, Budget* budget) {
  budget->Bytes(dict.entries.size() * 4 * sizeof(Value));
  std::vector<Value> pairs;
  for (const auto& [key, value] : dict.entries) {
    pairs.push_back(Value::Of({key, value}, List::Form::kTuple));
  }
  return Value::Of(std::move(pairs), List::Form::kItemsView);
}

int64_t SizeOf(const Value& value) {
  if (value.IsUndefined()) return 0;
  if (value.IsString()) return static_cast<int64_t>(LengthOf(value.Text()));
  if (const List* list = value.IfList()) return static_cast<int64_t>(list->items.size());
  if (const Dict* dict = value.IfDict()) return static_cast<int64_t>(dict->entries.size());
  if (const auto* loop = value.If<std::shared_ptr<Loop>>()) {
    return static_cast<int64_t>((*loop)->items->items.size());
  }
  throw Failure(std::string("a ") + value.TypeName() + " has no length");
}

}  // namespace sluice::jinja
