#include "chat/jinja_tests.h"

#include <algorithm>
#include <array>

#include "chat/jinja_filters.h"
#include "chat/jinja_operators.h"
#include "chat/jinja_text.h"

namespace sluice::jinja {
namespace {

using Test = bool (*)(const Value& input, const Value& argument, Budget* budget);

struct Entry {
  std::string_view name;
  Test test;
  std::string_view parameter = {};  // empty when the test takes no argument
};

template <class... T>
bool IsType(const Value& value, const Value&, Budget*) {
  return (value.If<T>() || ...);
}

bool IsDefined(const Value& value, const Value&, Budget*) {
  return !value.IsUndefined();
}

bool IsGenerator(const Value& value) {
  return value.If<std::shared_ptr<Generator>>() != nullptr;
}

bool IsIterable(const Value& value, const Value&, Budget*) {
  return value.IsUndefined() || value.IsString() || value.IfList() || value.IfDict() ||
         IsGenerator(value) || value.If<std::shared_ptr<Loop>>();
}

bool IsSequence(const Value& value, const Value&, Budget*) {
  return value.IsUndefined() || value.IsString() || value.IfDict() ||
         (value.IfList() && value.IfList()->IsSequence());
}

template <bool kWanted>
bool IsBool(const Value& value, const Value&, Budget*) {
  return value.If<bool>() && *value.If<bool>() == kWanted;
}

template <int kRemainder>
bool HasParity(const Value& value, const Value&, Budget* budget) {
  const Value remainder = Arithmetic(Operator::kModulo, value, Value::Int(2), budget);
  return Equals(remainder, Value::Int(kRemainder), budget);
}

bool IsDivisible(const Value& value, const Value& divisor, Budget* budget) {
  return Equals(Arithmetic(Operator::kModulo, value, divisor, budget), Value::Int(0), budget);
}

// Whether there is a letter with case, and all of them satisfy the predicate.
template <auto kPredicate>
bool IsCase(const Value& value, const Value&, Budget* budget) {
  return AllCased(ToText(value, budget), kPredicate);
}

template <Operator kOperator>
bool CompareTest(const Value& a, const Value& b, Budget* budget) {
  return Compare(kOperator, a, b, budget);
}

bool IsCallable(const Value& value, const Value&, Budget*) {
  // An undefined value has the method that reports it.
  return value.IsUndefined() || value.If<std::shared_ptr<const Callable>>() ||
         value.If<std::shared_ptr<Loop>>();
}

template <auto kIsName>
bool IsNameOf(const Value& value, const Value&, Budget*) {
  CheckKey(value);
  return value.IsString() && kIsName(value.Text());
}

constexpr std::array<Entry, 39> kTests = {{
    {"defined", IsDefined},
    {"undefined", IsType<Undefined>},
    {"none", IsType<None>},
    {"string", IsType<StringPtr>},
    {"mapping", IsType<DictPtr>},
    {"iterable", IsIterable},
    {"sequence", IsSequence},
    {"number", IsType<bool, int64_t, double>},
    {"integer", IsType<int64_t>},
    {"float", IsType<double>},
    {"boolean", IsType<bool>},
    {"true", IsBool<true>},
    {"false", IsBool<false>},
    {"odd", HasParity<1>},
    {"even", HasParity<0>},
    {"callable", IsCallable},
    {"upper", IsCase<IsUpper>},
    {"lower", IsCase<IsLower>},
    {"filter", IsNameOf<IsFilterName>},
    {"test", IsNameOf<IsTestName>},
    {"sameas", [](const Value& a, const Value& b, Budget*) { return a.IsSameObject(b); }, "other"},
    {"divisibleby", IsDivisible, "num"},
    {"in", CompareTest<Operator::kIn>, "seq"},
    {"eq", CompareTest<Operator::kEqual>, "b"},
    {"equalto", CompareTest<Operator::kEqual>, "b"},
    {"==", CompareTest<Operator::kEqual>, "b"},
    {"ne", CompareTest<Operator::kNotEqual>, "b"},
    {"!=", CompareTest<Operator::kNotEqual>, "b"},
    {"lt", CompareTest<Operator::kLess>, "b"},
    {"lessthan", CompareTest<Operator::kLess>, "b"},
    {"<", CompareTest<Operator::kLess>, "b"},
    {"le", CompareTest<Operator::kLessEqual>, "b"},
    {"<=", CompareTest<Operator::kLessEqual>, "b"},
    {"gt", CompareTest<Operator::kGreater>, "b"},
    {"greaterthan", CompareTest<Operator::kGreater>, "b"},
    {">", CompareTest<Operator::kGreater>, "b"},
    {"ge", CompareTest<Operator::kGreaterEqual>, "b"},
    {">=", CompareTest<Operator::kGreaterEqual>, "b"},
    {"escaped", [](const Value&, const Value&, Budget*) { return false; }},
}};

const Entry* FindTest(std::string_view name) {
  const auto found = std::ranges::find(kTests, name, &Entry::name);
  return found == kTests.end() ? nullptr : &*found;
}

}  // namespace

bool IsTestName(std::string_view name) {
  return FindTest(name) != nullptr;
}

bool ApplyTest(std::string_view name, const Value& input, const Arguments& arguments,
               Budget* budget) {
  const Entry& entry = *FindTest(name);
  if (entry.parameter.empty()) {
    arguments.Check(name, {});
    return entry.test(input, input, budget);
  }
  arguments.Check(name, {entry.parameter});
  const Value* argument = arguments.Find(0, entry.parameter);
  if (argument == nullptr) throw Failure("the test " + std::string(name) + " needs an argument");
  return entry.test(input, *argument, budget);
}

}  // namespace sluice::jinja
