#include "chat/jinja_functions.h"

#include <array>
#include <ctime>

#include "chat/jinja_text.h"

namespace sluice::jinja {
namespace {

constexpr std::array<std::string_view, 5> kNames = {"range", "dict", "namespace", "raise_exception",
                                                    "strftime_now"};
// As Jinja's sandbox has it.
constexpr int64_t kMaxRange = 100'000;

Value Range(const Arguments& arguments, Budget* budget) {
  arguments.CheckPositional("range", 1, 3);
  const bool one = arguments.positional.size() == 1;
  const int64_t start = one ? 0 : arguments.RequiredInteger(0, "start");
  const int64_t stop = arguments.RequiredInteger(one ? 0 : 1, "stop");
  const int64_t step = arguments.RequiredInteger(2, "step", 1);
  if (step == 0) throw Failure("range with step 0");
  std::vector<Value> items;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (static_cast<int64_t>(items.size()) == kMaxRange) {
      throw Failure("a range of over " + std::to_string(kMaxRange) + " numbers");
    }
    items.push_back(Value::Int(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  budget->Step(items.size());
  budget->Bytes(items.size() * sizeof(Value));
  return Value::Range(std::move(items), {start, stop, step});
}

// dict(mapping or pairs, **named).
Dict MakeDict(const Arguments& arguments, Budget* budget) {
  if (arguments.positional.size() > 1) throw Failure("dict takes at most one positional argument");
  Dict dict;
  const auto set = [&](const Value& key, const Value& value) {
    CheckKey(key);
    budget->Step(dict.entries.size() / 16);
    dict.Set(key, value);
  };
  if (!arguments.positional.empty()) {
    const Value& given = arguments.positional[0];
    if (given.IsUndefined()) throw UndefinedFailure(*given.If<Undefined>());
    const Value pairs = given.IfDict() ? DictItems(*given.IfDict(), budget) : given;
    for (const Value& item : ItemsOf(pairs, budget)) {
      const std::vector<Value> pair = ItemsOf(item, budget);
      if (pair.size() != 2) throw Failure("dict needs pairs");
      set(pair[0], pair[1]);
    }
  }
  for (const auto& [name, value] : arguments.named) set(Value::String(name), value);
  return dict;
}

Value MakeNamespace(Dict attributes) {
  for (const auto& [key, value] : attributes.entries) CheckStorable(value);
  auto space = std::make_shared<Namespace>();
  space->attributes = std::move(attributes);
  return Value(Value::Storage(std::move(space)));
}

Value FormatTime(const Arguments& arguments, std::chrono::system_clock::time_point now) {
  arguments.Check("strftime_now", {"format"});
  constexpr size_t kMaxFormat = 1000;
  const std::string& format = arguments.Text(0, "format");
  if (format.size() > kMaxFormat) throw Failure("strftime_now with a format over 1000 bytes");
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  std::tm time = {};
  localtime_r(&seconds, &time);
  // %f, the microseconds, is Python's own. A blank behind tells an empty result from one too long.
  const auto since = std::chrono::duration_cast<std::chrono::microseconds>(now.time_since_epoch());
  const std::string digits = std::to_string(since.count() % 1'000'000);
  std::string expanded;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%' || i + 1 == format.size()) {
      expanded.push_back(format[i]);
    } else if (format[++i] == 'f') {
      expanded += std::string(6 - std::min<size_t>(digits.size(), 6), '0') + digits;
    } else {
      expanded += {'%', format[i]};
    }
  }
  std::string text(64 * kMaxFormat, '\0');
  text.resize(std::strftime(text.data(), text.size(), (expanded + " ").c_str(), &time));
  if (!text.empty()) text.pop_back();
  return Value::String(std::move(text));
}

}  // namespace

std::span<const std::string_view> FunctionNames() {
  return kNames;
}

Value CallFunction(std::string_view name, const Arguments& arguments,
                   std::chrono::system_clock::time_point now, Budget* budget) {
  if (name == "range") return Range(arguments, budget);
  if (name == "strftime_now") return FormatTime(arguments, now);
  if (name == "dict") return Value::Of(MakeDict(arguments, budget));
  if (name == "namespace") return MakeNamespace(MakeDict(arguments, budget));
  arguments.Check(name, {"message"});
  const Value* message = arguments.Find(0, "message");
  if (message == nullptr) throw Failure("raise_exception needs a message");
  throw Failure(ToText(*message, budget));
}

}  // namespace sluice::jinja
