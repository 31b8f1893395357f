#include "chat/jinja_operators.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "chat/jinja_arguments.h"
#include "chat/jinja_methods.h"
#include "chat/jinja_text.h"

namespace sluice::jinja {
namespace {

const char* Symbol(Operator op) {
  static constexpr const char* kSymbols[] = {
      "+", "-", "*", "/", "//", "%", "**", "==", "!=", "<", "<=", ">", ">=", "in", "not in"};
  return kSymbols[static_cast<size_t>(op)];
}

Error Mismatch(Operator op, const Value& a, const Value& b) {
  if (a.IsUndefined() || b.IsUndefined()) {
    const Undefined& undefined = a.IsUndefined() ? *a.If<Undefined>() : *b.If<Undefined>();
    return Failure("'" + undefined.name + "' is undefined");
  }
  return Failure(std::string("cannot apply ") + Symbol(op) + " to a " + a.TypeName() + " and a " +
                 b.TypeName());
}

Error Overflow() {
  return Error(ErrorCode::kUnsupported, "chat template: integers over 64 bits are not supported");
}

Error DivisionByZero() {
  return Failure("division by zero");
}

int64_t FloorDivide(int64_t a, int64_t b) {
  if (b == 0) throw DivisionByZero();
  if (b == -1) {
    if (a == std::numeric_limits<int64_t>::min()) throw Overflow();
    return -a;
  }
  const int64_t quotient = a / b;
  return quotient - ((a % b != 0 && (a < 0) != (b < 0)) ? 1 : 0);
}

int64_t IntegerPower(int64_t base, int64_t exponent) {
  int64_t result = 1;
  while (exponent > 0) {
    if ((exponent & 1) && __builtin_mul_overflow(result, base, &result)) throw Overflow();
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) throw Overflow();
  }
  return result;
}

Value IntegerArithmetic(Operator op, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  switch (op) {
    case Operator::kAdd:
      overflow = __builtin_add_overflow(a, b, &result);
      break;
    case Operator::kSubtract:
      overflow = __builtin_sub_overflow(a, b, &result);
      break;
    case Operator::kMultiply:
      overflow = __builtin_mul_overflow(a, b, &result);
      break;
    case Operator::kDivide:
      if (b == 0) throw DivisionByZero();
      return Value::Float(static_cast<double>(a) / static_cast<double>(b));
    case Operator::kFloorDivide:
      return Value::Int(FloorDivide(a, b));
    case Operator::kModulo:
      if (b == -1) return Value::Int(0);
      return Value::Int(a - FloorDivide(a, b) * b);
    default:
      if (b < 0) return Value::Float(std::pow(static_cast<double>(a), static_cast<double>(b)));
      return Value::Int(IntegerPower(a, b));
  }
  if (overflow) throw Overflow();
  return Value::Int(result);
}

double FloatArithmetic(Operator op, double a, double b) {
  switch (op) {
    case Operator::kAdd:
      return a + b;
    case Operator::kSubtract:
      return a - b;
    case Operator::kMultiply:
      return a * b;
    case Operator::kPower:
      return std::pow(a, b);
    default:
      break;
  }
  if (b == 0) throw DivisionByZero();
  if (op == Operator::kDivide) return a / b;
  const double remainder = std::fmod(a, b);
  const double modulo = remainder != 0 && (remainder < 0) != (b < 0) ? remainder + b : remainder;
  return op == Operator::kModulo ? modulo : std::floor((a - modulo) / b + 0.5);
}

Value Repeat(const Value& sequence, int64_t count, Budget* budget) {
  const auto times = static_cast<uint64_t>(std::max<int64_t>(count, 0));
  const uint64_t size = sequence.IsString() ? sequence.Text().size()
                                            : sequence.IfList()->items.size() * sizeof(Value);
  if (size == 0) return sequence;
  uint64_t total = 0;
  if (__builtin_mul_overflow(size, times, &total)) total = std::numeric_limits<uint64_t>::max();
  budget->Bytes(total);
  if (sequence.IsString()) {
    std::string text;
    text.reserve(total);
    for (uint64_t i = 0; i < times; ++i) text += sequence.Text();
    return Value::String(std::move(text));
  }
  std::vector<Value> items;
  const List& list = *sequence.IfList();
  for (uint64_t i = 0; i < times; ++i)
    items.insert(items.end(), list.items.begin(), list.items.end());
  return Value::Of(std::move(items), list.form);
}

bool IsSequence(const Value& value) {
  return value.IsString() || (value.IfList() && value.IfList()->form != List::Form::kGenerator);
}

bool Contains(const Value& container, const Value& item, Budget* budget) {
  if (container.IsString()) {
    if (!item.IsString()) throw Mismatch(Operator::kIn, item, container);
    budget->Step(container.Text().size() / 256);
    return container.Text().find(item.Text()) != std::string::npos;
  }
  if (const Dict* dict = container.IfDict()) {
    budget->Step(dict->entries.size());
    return dict->Find(item) != nullptr;
  }
  const std::vector<Value> items = ItemsOf(container, budget);
  return std::ranges::any_of(items, [&](const Value& other) { return Equals(item, other); });
}

// Less than zero, zero or more than zero; NaN compares as unordered.
std::partial_ordering Order(Operator op, const Value& a, const Value& b) {
  int64_t scratch_a = 0;
  int64_t scratch_b = 0;
  const int64_t* integer_a = IfInteger(a, &scratch_a);
  const int64_t* integer_b = IfInteger(b, &scratch_b);
  if (integer_a && integer_b) return *integer_a <=> *integer_b;
  if (IsNumber(a) && IsNumber(b)) return AsDouble(a) <=> AsDouble(b);
  // UTF-8 sorts as its code points do.
  if (a.IsString() && b.IsString()) return a.Text().compare(b.Text()) <=> 0;
  const List* list_a = a.IfList();
  const List* list_b = b.IfList();
  if (list_a == nullptr || list_b == nullptr || list_a->form != list_b->form)
    throw Mismatch(op, a, b);
  for (size_t i = 0; i < std::min(list_a->items.size(), list_b->items.size()); ++i) {
    if (!Equals(list_a->items[i], list_b->items[i]))
      return Order(op, list_a->items[i], list_b->items[i]);
  }
  return list_a->items.size() <=> list_b->items.size();
}

Value LoopAttribute(const Loop& loop, const std::string& name) {
  const auto& items = loop.items->items;
  const auto index = static_cast<int64_t>(loop.index);
  const auto size = static_cast<int64_t>(items.size());
  if (name == "index") return Value::Int(index + 1);
  if (name == "index0") return Value::Int(index);
  if (name == "revindex") return Value::Int(size - index);
  if (name == "revindex0") return Value::Int(size - index - 1);
  if (name == "first") return Value::Bool(index == 0);
  if (name == "last") return Value::Bool(index + 1 == size);
  if (name == "length") return Value::Int(size);
  if (name == "depth") return Value::Int(1);
  if (name == "depth0") return Value::Int(0);
  if (name == "previtem" && index > 0) return items[loop.index - 1];
  if (name == "nextitem" && index + 1 < size) return items[loop.index + 1];
  return Value::NotDefined("loop." + name);
}

// The entry of a dict or namespace, or the part of a loop.
std::optional<Value> NamedPart(const Value& value, const std::string& name, Budget* budget) {
  const Value* found = nullptr;
  if (const Dict* dict = value.IfDict()) {
    budget->Step(dict->entries.size() / 16);
    found = dict->Find(name);
  } else if (const auto* space = value.If<std::shared_ptr<Namespace>>()) {
    found = (*space)->attributes.Find(name);
  }
  if (found == nullptr) return std::nullopt;
  return *found;
}

Error UndefinedPart(const Value& value, const std::string& part) {
  return Failure("'" + value.If<Undefined>()->name + "' is undefined, so it has no " + part);
}

Value At(const Value& sequence, int64_t index, Budget* budget) {
  const std::vector<Value> items =
      sequence.IsString() ? ItemsOf(sequence, budget) : std::vector<Value>();
  const std::vector<Value>& all = sequence.IsString() ? items : sequence.IfList()->items;
  const auto size = static_cast<int64_t>(all.size());
  if (index < -size || index >= size) return Value::NotDefined("item " + std::to_string(index));
  return all[static_cast<size_t>(index < 0 ? index + size : index)];
}

int64_t SlicePart(const Value& part, int64_t fallback) {
  if (part.IsNone()) return fallback;
  int64_t scratch = 0;
  if (const int64_t* integer = IfInteger(part, &scratch)) return *integer;
  throw Failure(std::string("a slice needs integers, not a ") + part.TypeName());
}

}  // namespace

Value Arithmetic(Operator op, const Value& a, const Value& b, Budget* budget) {
  int64_t scratch_a = 0;
  int64_t scratch_b = 0;
  const int64_t* integer_a = IfInteger(a, &scratch_a);
  const int64_t* integer_b = IfInteger(b, &scratch_b);
  if (integer_a && integer_b) return IntegerArithmetic(op, *integer_a, *integer_b);
  if (IsNumber(a) && IsNumber(b))
    return Value::Float(FloatArithmetic(op, AsDouble(a), AsDouble(b)));
  if (op == Operator::kMultiply && IsSequence(a) && integer_b) return Repeat(a, *integer_b, budget);
  if (op == Operator::kMultiply && IsSequence(b) && integer_a) return Repeat(b, *integer_a, budget);
  if (op == Operator::kModulo && a.IsString()) {
    throw Error(ErrorCode::kUnsupported, "chat template: % on a str is not supported; use ~");
  }
  if (op != Operator::kAdd) throw Mismatch(op, a, b);
  if (a.IsString() && b.IsString()) {
    budget->Bytes(a.Text().size() + b.Text().size());
    return Value::String(a.Text() + b.Text());
  }
  if (!IsSequence(a) || !a.IfList() || !b.IfList() || a.IfList()->form != b.IfList()->form) {
    throw Mismatch(op, a, b);
  }
  std::vector<Value> items = ItemsOf(a, budget);
  const std::vector<Value> more = ItemsOf(b, budget);
  items.insert(items.end(), more.begin(), more.end());
  return Value::Of(std::move(items), a.IfList()->form);
}

bool Compare(Operator op, const Value& a, const Value& b, Budget* budget) {
  switch (op) {
    case Operator::kEqual:
      return Equals(a, b);
    case Operator::kNotEqual:
      return !Equals(a, b);
    case Operator::kIn:
      return Contains(b, a, budget);
    case Operator::kNotIn:
      return !Contains(b, a, budget);
    case Operator::kLess:
      return Order(op, a, b) < 0;
    case Operator::kLessEqual:
      return Order(op, a, b) <= 0;
    case Operator::kGreater:
      return Order(op, a, b) > 0;
    default:
      return Order(op, a, b) >= 0;
  }
}

Value Negate(const Value& value) {
  int64_t scratch = 0;
  if (const int64_t* integer = IfInteger(value, &scratch)) {
    return IntegerArithmetic(Operator::kSubtract, 0, *integer);
  }
  if (const double* number = value.If<double>()) return Value::Float(-*number);
  throw Mismatch(Operator::kSubtract, value, value);
}

Value Attribute(const Value& value, const std::string& name, Budget* budget) {
  if (value.IsUndefined()) throw UndefinedPart(value, name);
  if (auto method = FindMethod(value, name)) return *std::move(method);
  if (const auto* loop = value.If<std::shared_ptr<Loop>>()) return LoopAttribute(**loop, name);
  if (auto part = NamedPart(value, name, budget)) return *std::move(part);
  return Value::NotDefined(name);
}

Value Item(const Value& value, const Value& key, Budget* budget) {
  if (value.IsUndefined()) throw UndefinedPart(value, ToRepr(key));
  if (key.IsString()) {
    if (auto part = NamedPart(value, key.Text(), budget)) return *std::move(part);
    return Attribute(value, key.Text(), budget);
  }
  if (const Dict* dict = value.IfDict()) {
    budget->Step(dict->entries.size() / 16);
    const Value* found = dict->Find(key);
    return found != nullptr ? *found : Value::NotDefined(ToRepr(key));
  }
  int64_t scratch = 0;
  const int64_t* index = IfInteger(key, &scratch);
  if (IsSequence(value) && index != nullptr) return At(value, *index, budget);
  return Value::NotDefined(ToRepr(key));
}

Value Slice(const Value& value, const Value& start, const Value& stop, const Value& step,
            Budget* budget) {
  if (value.IsUndefined()) throw UndefinedPart(value, "slice");
  if (!IsSequence(value)) throw Failure(std::string("a ") + value.TypeName() + " cannot be sliced");
  const std::vector<Value> items = ItemsOf(value, budget);
  const auto size = static_cast<int64_t>(items.size());
  const int64_t stride = SlicePart(step, 1);
  if (stride == 0) throw Failure("a slice with step 0");
  // Python clips to [0, size], or to [-1, size - 1] when it goes backwards.
  const int64_t low = stride < 0 ? -1 : 0;
  const int64_t high = stride < 0 ? size - 1 : size;
  const auto clip = [&](int64_t index) {
    if (index < 0) index = index < -size ? low : index + size;
    return std::clamp(index, low, std::max(low, high));
  };
  const int64_t begin = start.IsNone() ? (stride < 0 ? high : low) : clip(SlicePart(start, 0));
  const int64_t end = stop.IsNone() ? (stride < 0 ? low : high) : clip(SlicePart(stop, 0));
  std::vector<Value> taken;
  // Beyond the size every step leaves the sequence.
  const int64_t bounded = std::clamp(stride, -size - 1, size + 1);
  for (int64_t i = begin; stride > 0 ? i < end : i > end; i += bounded) {
    taken.push_back(items[static_cast<size_t>(i)]);
  }
  if (!value.IsString()) return Value::Of(std::move(taken), value.IfList()->form);
  std::string text;
  for (const Value& character : taken) text += character.Text();
  return Value::String(std::move(text));
}

}  // namespace sluice::jinja
