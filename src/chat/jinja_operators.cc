#include "chat/jinja_operators.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "chat/jinja_arguments.h"
#include "chat/jinja_format.h"
#include "chat/jinja_methods.h"
#include "chat/jinja_text.h"
#include "tokenizer/utf8.h"

namespace sluice::jinja {
namespace {

const char* Symbol(Operator op) {
  static constexpr const char* kSymbols[] = {
      "+", "-", "*", "/", "//", "%", "**", "==", "!=", "<", "<=", ">", ">=", "in", "not in"};
  return kSymbols[static_cast<size_t>(op)];
}

Error Mismatch(Operator op, const Value& a, const Value& b) {
  if (a.IsUndefined() || b.IsUndefined()) {
    return UndefinedFailure(a.IsUndefined() ? *a.If<Undefined>() : *b.If<Undefined>());
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

double FloatPower(double a, double b) {
  if (a == 0 && b < 0) throw DivisionByZero();
  if (a < 0 && std::isfinite(a) && std::isfinite(b) && b != std::floor(b)) {
    throw Error(ErrorCode::kUnsupported, "chat template: complex numbers are not supported");
  }
  const double power = std::pow(a, b);
  if (std::isinf(power) && std::isfinite(a) && std::isfinite(b)) throw Failure("a power too large");
  return power;
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
      if (b < 0) return Value::Float(FloatPower(static_cast<double>(a), static_cast<double>(b)));
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
      return FloatPower(a, b);
    default:
      break;
  }
  if (b == 0) throw DivisionByZero();
  if (op == Operator::kDivide) return a / b;
  double modulo = std::fmod(a, b);
  double quotient = (a - modulo) / b;
  if (modulo == 0) {
    modulo = std::copysign(0.0, b);
  } else if ((b < 0) != (modulo < 0)) {
    modulo += b;
    quotient -= 1;
  }
  if (op == Operator::kModulo) return modulo;
  if (quotient == 0) return std::copysign(0.0, a / b);
  const double floor = std::floor(quotient);
  return quotient - floor > 0.5 ? floor + 1 : floor;
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

// What + joins and * repeats.
bool IsRepeatable(const Value& value) {
  const List* list = value.IfList();
  return value.IsString() || (list && (list->form == List::Form::kList || list->IsTuple()));
}

bool IsIndexed(const Value& value) {
  return value.IsString() || (value.IfList() && value.IfList()->IsSequence());
}

bool Contains(const Value& container, const Value& item, Budget* budget) {
  if (container.IsString()) {
    if (!item.IsString()) throw Mismatch(Operator::kIn, item, container);
    budget->Step(container.Text().size() / 256);
    return container.Text().find(item.Text()) != std::string::npos;
  }
  if (const Dict* dict = container.IfDict()) {
    CheckKey(item);
    budget->Step(dict->entries.size() / 16);
    return dict->Find(item) != nullptr;
  }
  Iterator items(container);
  while (const std::optional<Value> other = items.Next(budget)) {
    if (Equals(item, *other, budget)) return true;
  }
  return false;
}

// Less than zero, zero or more than zero; NaN compares as unordered.
std::partial_ordering Order(Operator op, const Value& a, const Value& b, Budget* budget) {
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
  const bool ordered = list_a && list_b && IsRepeatable(a) && IsRepeatable(b) &&
                       list_a->IsTuple() == list_b->IsTuple();
  if (!ordered) throw Mismatch(op, a, b);
  for (size_t i = 0; i < std::min(list_a->items.size(), list_b->items.size()); ++i) {
    budget->Step();
    if (!Equals(list_a->items[i], list_b->items[i], budget)) {
      return Order(op, list_a->items[i], list_b->items[i], budget);
    }
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
  if (name == "depth") return Value::Int(loop.depth0 + 1);
  if (name == "depth0") return Value::Int(loop.depth0);
  if (name == "previtem" && index > 0) return items[loop.index - 1];
  if (name == "nextitem" && index + 1 < size) return items[loop.index + 1];
  return Value::NotDefined("loop." + name);
}

Value MacroAttribute(const Callable& callable, const std::string& name) {
  if (callable.kind == Callable::Kind::kMacro) {
    const MacroStatement& macro = *callable.macro;
    if (name == "name") return Value::String(macro.name);
    if (name == "catch_kwargs") return Value::Bool(macro.uses_kwargs);
    if (name == "catch_varargs") return Value::Bool(macro.uses_varargs);
    if (name == "caller") return Value::Bool(macro.uses_caller);
    if (name == "arguments") {
      std::vector<Value> names;
      for (const std::string& parameter : macro.parameters)
        names.push_back(Value::String(parameter));
      return Value::Of(std::move(names), List::Form::kTuple);
    }
  }
  return Value::NotDefined(name);
}

// The entry of a dict or namespace.
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

// The bytes before the code point at `index` of a text with at least so many.
size_t OffsetOf(std::string_view text, int64_t index) {
  size_t offset = 0;
  for (int64_t i = 0; i < index; ++i) NextCodePoint(text, &offset);
  return offset;
}

Value At(const Value& sequence, int64_t index, Budget* budget) {
  const int64_t size = SizeOf(sequence);
  if (index < -size || index >= size) return Value::NotDefined("item " + std::to_string(index));
  if (index < 0) index += size;
  if (const List* list = sequence.IfList()) return list->items[static_cast<size_t>(index)];
  const std::string& text = sequence.Text();
  budget->Step(text.size() / 64);
  const size_t begin = OffsetOf(text, index);
  size_t end = begin;
  NextCodePoint(text, &end);
  return Value::String(text.substr(begin, end - begin));
}

// What a slice takes of a sequence: `count` items from `begin`, each `stride` further.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t count = 0;
  int64_t stride = 1;
};

Range RangeOf(int64_t size, const Value& start, const Value& stop, const Value& step) {
  int64_t scratch = 0;
  for (const Value* part : {&start, &stop, &step}) {
    if (part->IsNone() || IfInteger(*part, &scratch)) continue;
    throw Failure(std::string("a slice needs integers, not a ") + part->TypeName());
  }
  const auto part = [&](const Value& value, int64_t fallback) {
    return value.IsNone() ? fallback : *IfInteger(value, &scratch);
  };
  int64_t stride = part(step, 1);
  if (stride == 0) throw Failure("a slice with step 0");
  // Python clips to [0, size], or to [-1, size - 1] when it goes backwards.
  const int64_t low = stride < 0 ? -1 : 0;
  const int64_t high = stride < 0 ? size - 1 : size;
  const auto clip = [&](int64_t index) {
    if (index < 0) index = index < -size ? low : index + size;
    return std::clamp(index, low, std::max(low, high));
  };
  const int64_t begin = start.IsNone() ? (stride < 0 ? high : low) : clip(part(start, 0));
  const int64_t end = stop.IsNone() ? (stride < 0 ? low : high) : clip(part(stop, 0));
  // Beyond the size every step leaves the sequence.
  stride = std::clamp(stride, -size - 1, size + 1);
  const int64_t span = stride > 0 ? end - begin : begin - end;
  const int64_t count = span <= 0 ? 0 : (span - 1) / std::abs(stride) + 1;
  return Range{.begin = begin, .end = end, .count = count, .stride = stride};
}

Value SliceList(const List& list, const Range& range, Budget* budget) {
  budget->Bytes(static_cast<uint64_t>(range.count) * sizeof(Value));
  std::vector<Value> taken;
  for (int64_t i = 0; i < range.count; ++i) {
    taken.push_back(list.items[static_cast<size_t>(range.begin + i * range.stride)]);
  }
  if (list.form != List::Form::kRange) {
    return Value::Of(std::move(taken), list.IsTuple() ? List::Form::kTuple : list.form);
  }
  const auto& [start, stop, step] = list.range;
  return Value::Range(std::move(taken),
                      {start + range.begin * step, start + range.end * step, step * range.stride});
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
  if (op == Operator::kMultiply && IsRepeatable(a) && integer_b)
    return Repeat(a, *integer_b, budget);
  if (op == Operator::kMultiply && IsRepeatable(b) && integer_a)
    return Repeat(b, *integer_a, budget);
  if (op == Operator::kModulo && a.IsString()) {
    return Value::String(PercentFormat(a.Text(), b, budget));
  }
  if (op != Operator::kAdd) throw Mismatch(op, a, b);
  if (a.IsString() && b.IsString()) {
    budget->Bytes(a.Text().size() + b.Text().size());
    return Value::String(a.Text() + b.Text());
  }
  const bool same_kind = IsRepeatable(a) && IsRepeatable(b) && a.IfList() && b.IfList() &&
                         a.IfList()->IsTuple() == b.IfList()->IsTuple();
  if (!same_kind) {
    throw Mismatch(op, a, b);
  }
  std::vector<Value> items = ItemsOf(a, budget);
  const std::vector<Value> more = ItemsOf(b, budget);
  items.insert(items.end(), more.begin(), more.end());
  return Value::Of(std::move(items),
                   a.IfList()->IsTuple() ? List::Form::kTuple : List::Form::kList);
}

bool Compare(Operator op, const Value& a, const Value& b, Budget* budget) {
  switch (op) {
    case Operator::kEqual:
      return Equals(a, b, budget);
    case Operator::kNotEqual:
      return !Equals(a, b, budget);
    case Operator::kIn:
      return Contains(b, a, budget);
    case Operator::kNotIn:
      return !Contains(b, a, budget);
    case Operator::kLess:
      return Order(op, a, b, budget) < 0;
    case Operator::kLessEqual:
      return Order(op, a, b, budget) <= 0;
    case Operator::kGreater:
      return Order(op, a, b, budget) > 0;
    default:
      return Order(op, a, b, budget) >= 0;
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
  if (value.IsUndefined()) throw UndefinedFailure(*value.If<Undefined>());
  if (auto method = FindMethod(value, name)) return *std::move(method);
  if (const auto* loop = value.If<std::shared_ptr<Loop>>()) return LoopAttribute(**loop, name);
  if (const auto* callable = value.If<std::shared_ptr<const Callable>>()) {
    return MacroAttribute(**callable, name);
  }
  if (const List* list = value.IfList(); list && list->form == List::Form::kGroup) {
    if (name == "grouper") return list->items[0];
    if (name == "list") return list->items[1];
  }
  if (auto part = NamedPart(value, name, budget)) return *std::move(part);
  return Value::NotDefined(name);
}

Value Item(const Value& value, const Value& key, Budget* budget) {
  if (value.IsUndefined()) throw UndefinedFailure(*value.If<Undefined>());
  if (key.IsString()) {
    if (auto part = NamedPart(value, key.Text(), budget)) return *std::move(part);
    return Attribute(value, key.Text(), budget);
  }
  if (const Dict* dict = value.IfDict()) {
    budget->Step(dict->entries.size() / 16);
    const Value* found = nullptr;
    if (IsHashable(key)) {
      CheckKey(key);
      found = dict->Find(key);
    }
    return found != nullptr ? *found : Value::NotDefined("the item of a dict");
  }
  int64_t scratch = 0;
  const int64_t* index = IfInteger(key, &scratch);
  if (IsIndexed(value) && index != nullptr) return At(value, *index, budget);
  return Value::NotDefined("the item of a " + std::string(value.TypeName()));
}

Value Slice(const Value& value, const Value& start, const Value& stop, const Value& step,
            Budget* budget) {
  if (value.IsUndefined()) throw UndefinedFailure(*value.If<Undefined>());
  if (!IsIndexed(value)) throw Failure(std::string("a ") + value.TypeName() + " cannot be sliced");
  const Range range = RangeOf(SizeOf(value), start, stop, step);
  budget->Step(static_cast<uint64_t>(range.count) / 16);
  if (const List* list = value.IfList()) return SliceList(*list, range, budget);
  const std::string& text = value.Text();
  budget->Step(text.size() / 64);
  if (range.stride == 1) {
    const size_t begin = OffsetOf(text, range.begin);
    const size_t size = OffsetOf(std::string_view(text).substr(begin), range.count);
    budget->Bytes(size);
    return Value::String(text.substr(begin, size));
  }
  const std::vector<Value> characters = ItemsOf(value, budget);
  std::string taken;
  for (int64_t i = 0; i < range.count; ++i) {
    taken += characters[static_cast<size_t>(range.begin + i * range.stride)].Text();
  }
  return Value::String(std::move(taken));
}

}  // namespace sluice::jinja
