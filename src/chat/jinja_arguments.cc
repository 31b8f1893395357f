#include "chat/jinja_arguments.h"

#include <algorithm>

#include "chat/jinja_text.h"

namespace sluice::jinja {

Error Failure(const std::string& message) {
  return Error(ErrorCode::kInvalidArgument, "chat template: " + message);
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

std::vector<Value> ItemsOf(const Value& value, Budget* budget) {
  std::vector<Value> items;
  if (value.IsUndefined()) return items;
  if (const List* list = value.IfList()) {
    items = list->items;
  } else if (const Dict* dict = value.IfDict()) {
    for (const auto& [key, item] : dict->entries) items.push_back(key);
  } else if (value.IsString()) {
    budget->Bytes(value.Text().size() * sizeof(Value) * 2);
    for (std::string& c : CharactersOf(value.Text())) items.push_back(Value::String(std::move(c)));
  } else {
    throw Failure(std::string("a ") + value.TypeName() + " cannot be iterated");
  }
  budget->Step(items.size());
  budget->Bytes(items.size() * sizeof(Value));
  return items;
}

int64_t SizeOf(const Value& value) {
  if (value.IsUndefined()) return 0;
  if (value.IsString()) return static_cast<int64_t>(LengthOf(value.Text()));
  const List* list = value.IfList();
  if (list != nullptr && list->form != List::Form::kGenerator) {
    return static_cast<int64_t>(list->items.size());
  }
  if (const Dict* dict = value.IfDict()) return static_cast<int64_t>(dict->entries.size());
  throw Failure(std::string("a ") + (list ? "generator" : value.TypeName()) + " has no length");
}

}  // namespace sluice::jinja
