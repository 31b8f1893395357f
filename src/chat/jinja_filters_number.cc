// The filters that make or take numbers.

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "chat/jinja_filter_table.h"
#include "chat/jinja_number.h"
#include "chat/jinja_operators.h"
#include "chat/jinja_text.h"

namespace sluice::jinja {
namespace {

Error TooLarge() {
  return Error(ErrorCode::kUnsupported, "chat template: integers over 64 bits are not supported");
}

// Drops blanks around a number and underscores between digits; nothing where they may not stand.
std::optional<std::string> PlainDigits(std::string_view text) {
  std::string plain;
  const std::string_view stripped = StripRight(StripLeft(text));
  for (size_t i = 0; i < stripped.size(); ++i) {
    const auto is_digit = [&](size_t at) {
      return at < stripped.size() && std::isxdigit(static_cast<unsigned char>(stripped[at]));
    };
    if (stripped[i] != '_') {
      plain.push_back(stripped[i]);
    } else if (i == 0 || !is_digit(i - 1) || !is_digit(i + 1)) {
      return std::nullopt;
    }
  }
  return plain;
}

Value ToInt(const Value& input, const Arguments& arguments, Budget*) {
  arguments.Check("int", {"default", "base"});
  Value fallback = arguments.Get(0, "default", Value::Int(0));
  const int64_t base = arguments.Integer(1, "base", 10);
  if (input.IsUndefined()) throw UndefinedFailure(*input.If<Undefined>());
  int64_t scratch = 0;
  if (const int64_t* integer = IfInteger(input, &scratch)) return Value::Int(*integer);
  if (const double* number = input.If<double>()) {
    return std::isnan(*number) ? fallback : Value::Int(TruncateFloat(*number));
  }
  if (!input.IsString()) return fallback;
  if (base >= 2 && base <= 36) {
    if (const auto integer = IntegerOf(input.Text(), static_cast<int>(base))) {
      return Value::Int(*integer);
    }
  }
  const auto number = FloatOf(input.Text());
  return number && std::isfinite(*number) ? Value::Int(TruncateFloat(*number)) : fallback;
}

Value ToFloat(const Value& input, const Arguments& arguments, Budget*) {
  arguments.Check("float", {"default"});
  if (input.IsUndefined()) throw UndefinedFailure(*input.If<Undefined>());
  if (IsNumber(input)) return Value::Float(AsDouble(input));
  const auto number = input.IsString() ? FloatOf(input.Text()) : std::nullopt;
  return number ? Value::Float(*number) : arguments.Get(0, "default", Value::Float(0));
}

Value Absolute(const Value& input, const Arguments& arguments, Budget*) {
  arguments.Check("abs", {});
  if (!IsNumber(input)) throw Failure(std::string("abs needs a number, not a ") + input.TypeName());
  if (const double* number = input.If<double>()) return Value::Float(std::fabs(*number));
  return AsDouble(input) < 0 ? Negate(input) : Negate(Negate(input));
}

// Rounds half to even at a power of ten.
int64_t RoundInteger(int64_t number, int64_t precision) {
  if (precision >= 0) return number;
  if (precision < -18) return 0;
  int64_t unit = 1;
  for (int64_t i = 0; i > precision; --i) unit *= 10;
  int64_t rest = number % unit;
  if (rest < 0) rest += unit;
  int64_t rounded = 0;
  if (__builtin_sub_overflow(number, rest, &rounded)) throw TooLarge();
  const bool up = rest > unit - rest || (rest == unit - rest && rounded / unit % 2 != 0);
  if (up && __builtin_add_overflow(rounded, unit, &rounded)) throw TooLarge();
  return rounded;
}

// The nearest decimal with so many digits, ties of the exact binary value to even.
double RoundFloat(double number, int64_t precision) {
  if (!std::isfinite(number) || precision > 300) return number;
  if (precision < 0) {
    const double unit = std::pow(10.0, static_cast<double>(-precision));
    return std::isinf(unit) ? std::copysign(0.0, number) : std::nearbyint(number / unit) * unit;
  }
  char text[700];
  std::snprintf(text, sizeof(text), "%.*f", static_cast<int>(precision), number);
  return std::strtod(text, nullptr);
}

Value Round(const Value& input, const Arguments& arguments, Budget*) {
  arguments.Check("round", {"precision", "method"});
  const Value given = arguments.Get(0, "precision", Value::Int(0));
  int64_t scratch = 0;
  const int64_t* precision = IfInteger(given, &scratch);
  const Value method = arguments.Get(1, "method", Value::String("common"));
  const std::string name = method.IsString() ? method.Text() : "";
  if (name != "common" && name != "ceil" && name != "floor") {
    throw Failure("round knows the methods common, ceil and floor");
  }
  if (!IsNumber(input) || precision == nullptr) {
    throw Failure(std::string("round needs a number, not a ") + input.TypeName());
  }
  int64_t scratch_input = 0;
  const int64_t* integer = IfInteger(input, &scratch_input);
  if (name == "common") {
    return integer ? Value::Int(RoundInteger(*integer, *precision))
                   : Value::Float(RoundFloat(AsDouble(input), *precision));
  }
  const double unit = std::pow(10.0, static_cast<double>(*precision));
  const double scaled = AsDouble(input) * unit;
  if (!std::isfinite(scaled)) throw Failure("round of what is not finite");
  return Value::Float((name == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / unit);
}

Value FileSize(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("filesizeformat", {"binary"});
  const bool binary = IsTrue(arguments.Get(0, "binary", Value::Bool(false)));
  const auto number = IsNumber(input)    ? std::optional(AsDouble(input))
                      : input.IsString() ? FloatOf(input.Text())
                                         : std::nullopt;
  if (!number) throw Failure("filesizeformat needs a number");
  const double base = binary ? 1024 : 1000;
  if (*number == 1) return Value::String("1 Byte");
  if (*number < base) {
    return Value::String(ToText(Value::Int(TruncateFloat(*number)), budget) + " Bytes");
  }
  static constexpr std::array<std::array<const char*, 2>, 8> kUnits = {{{"kB", "KiB"},
                                                                        {"MB", "MiB"},
                                                                        {"GB", "GiB"},
                                                                        {"TB", "TiB"},
                                                                        {"PB", "PiB"},
                                                                        {"EB", "EiB"},
                                                                        {"ZB", "ZiB"},
                                                                        {"YB", "YiB"}}};
  double unit = base;
  size_t index = 0;
  do {
    unit *= base;
  } while (*number >= unit && ++index + 1 < kUnits.size());
  char text[400];
  if (index + 1 == kUnits.size()) unit = std::pow(base, 9);
  std::snprintf(text, sizeof(text), "%.1f %s", base * *number / unit, kUnits[index][binary]);
  return Value::String(text);
}

constexpr std::array<FilterEntry, 5> kFilters = {{
    {"int", ToInt},
    {"float", ToFloat},
    {"abs", Absolute},
    {"round", Round},
    {"filesizeformat", FileSize},
}};

}  // namespace

std::optional<int64_t> IntegerOf(std::string_view text, int base) {
  std::optional<std::string> plain = PlainDigits(text);
  if (!plain) return std::nullopt;
  std::string_view digits = *plain;
  const bool negative = digits.starts_with('-');
  if (negative || digits.starts_with('+')) digits.remove_prefix(1);
  const char letter =
      digits.size() > 2 && digits[0] == '0' ? static_cast<char>(digits[1] | 0x20) : 0;
  const int prefixed = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
  if (prefixed == base) digits.remove_prefix(2);
  uint64_t number = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), number, base);
  if (digits.empty() || end != digits.data() + digits.size()) return std::nullopt;
  if (error != std::errc() || number > (uint64_t{1} << 63) - (negative ? 0 : 1)) throw TooLarge();
  return static_cast<int64_t>(negative ? ~number + 1 : number);
}

std::optional<double> FloatOf(std::string_view text) {
  std::optional<std::string> plain = PlainDigits(text);
  if (!plain) return std::nullopt;
  std::string_view digits = *plain;
  const bool negative = digits.starts_with('-');
  if (negative || digits.starts_with('+')) digits.remove_prefix(1);
  if (digits.starts_with('-')) return std::nullopt;
  double number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  const bool all = !digits.empty() && end == digits.data() + digits.size();
  if (!all || digits.find('(') != digits.npos) return std::nullopt;
  // Out of range: strtod gives 0 or infinity, as Python does.
  if (error == std::errc::result_out_of_range) number = std::strtod(plain->c_str(), nullptr);
  return negative ? -std::fabs(number) : number;
}

int64_t TruncateFloat(double number) {
  if (!std::isfinite(number)) throw Failure("cannot make an int of what is not finite");
  if (!(std::fabs(number) < 9.2e18)) throw TooLarge();
  return static_cast<int64_t>(number);
}

std::span<const FilterEntry> NumberFilters() {
  return kFilters;
}

}  // namespace sluice::jinja
