#include "chat/jinja_format.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "chat/jinja_case.h"
#include "chat/jinja_operators.h"
#include "chat/jinja_text.h"
#include "tokenizer/utf8.h"

namespace sluice::jinja {
namespace {

// The largest width and precision; Python's own bounds are far above any use.
constexpr int64_t kMaxWidth = 100'000;
constexpr int64_t kMaxPrecision = 300;

struct Spec {
  std::string fill = " ";
  char align = '\0';  // < > ^ = or none
  char sign = '-';
  bool alternate = false;
  char grouping = '\0';
  int64_t width = 0;
  int64_t precision = -1;
  char type = '\0';
};

bool IsAnyOf(char type, std::string_view types) {
  return type != '\0' && types.find(type) != types.npos;
}

// Reads the digits at the front of `text`; nothing when there are none.
std::optional<int64_t> TakeNumber(std::string_view* text, int64_t most) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), number);
  if (end == text->data()) return std::nullopt;
  if (error != std::errc() || number > most || number < 0) {
    throw Failure("a format with a width or precision over " + std::to_string(most));
  }
  text->remove_prefix(static_cast<size_t>(end - text->data()));
  return number;
}

bool TakeAny(std::string_view* text, std::string_view characters, char* taken) {
  if (text->empty() || characters.find(text->front()) == characters.npos) return false;
  *taken = text->front();
  text->remove_prefix(1);
  return true;
}

bool TakeDigits(std::string_view* text, int64_t most, int64_t* number) {
  if (text->empty() || text->front() < '0' || text->front() > '9') return false;
  *number = *TakeNumber(text, most);
  return true;
}

Spec ParseSpec(std::string_view text, const Value& value) {
  const auto broken = [&] {
    return Failure("invalid format specifier for a " + std::string(value.TypeName()));
  };
  Spec spec;
  size_t fill_end = 0;
  if (!text.empty()) NextCodePoint(text, &fill_end);
  char ignored = '\0';
  if (fill_end < text.size() && std::string_view("<>=^").find(text[fill_end]) != text.npos) {
    spec.fill = text.substr(0, fill_end);
    spec.align = text[fill_end];
    text.remove_prefix(fill_end + 1);
  } else {
    TakeAny(&text, "<>=^", &spec.align);
  }
  TakeAny(&text, "+- ", &spec.sign);
  spec.alternate = TakeAny(&text, "#", &ignored);
  if (TakeAny(&text, "0", &ignored) && spec.align == '\0') {
    spec.fill = "0";
    if (!value.IsString()) spec.align = '=';
  }
  TakeDigits(&text, kMaxWidth, &spec.width);
  TakeAny(&text, ",_", &spec.grouping);
  if (TakeAny(&text, ".", &ignored) && !TakeDigits(&text, kMaxWidth, &spec.precision)) {
    throw broken();
  }
  if (text.size() > 1) throw broken();
  if (!text.empty()) spec.type = text[0];
  return spec;
}

std::string Pad(const std::string& text, const std::string& fill, int64_t width, char align,
                size_t sign_size) {
  const int64_t missing = width - static_cast<int64_t>(LengthOf(text));
  if (missing <= 0) return text;
  const int64_t before = align == '>' || align == '=' ? missing : align == '^' ? missing / 2 : 0;
  std::string result = align == '=' ? text.substr(0, sign_size) : std::string();
  for (int64_t i = 0; i < before; ++i) result += fill;
  result += align == '=' ? text.substr(sign_size) : text;
  for (int64_t i = before; i < missing; ++i) result += fill;
  return result;
}

std::string Print(const char* conversion, int precision, double number) {
  std::string text(400 + static_cast<size_t>(precision), '\0');
  const int size = std::snprintf(text.data(), text.size(), conversion, precision, number);
  text.resize(static_cast<size_t>(size));
  return text;
}

// The digits of |number| for the types e, f, g, n and %.
std::string FloatDigits(double number, const Spec& spec) {
  const double size = std::fabs(number);
  const int precision = spec.precision < 0 ? 6 : static_cast<int>(spec.precision);
  if (precision > kMaxPrecision) throw Failure("a format with a precision over 300");
  const bool upper = spec.type == 'F' || spec.type == 'E' || spec.type == 'G';
  if (std::isnan(number)) return upper ? "NAN" : "nan";
  if (std::isinf(number)) return upper ? "INF" : "inf";
  switch (spec.type) {
    case '\0':
      if (spec.precision < 0) return FloatRepr(size);
      throw Error(ErrorCode::kUnsupported,
                  "chat template: a precision without a type in a format is not supported");
    case 'f':
    case 'F':
      return Print(spec.alternate ? "%#.*f" : "%.*f", precision, size);
    case 'e':
      return Print(spec.alternate ? "%#.*e" : "%.*e", precision, size);
    case 'E':
      return Print(spec.alternate ? "%#.*E" : "%.*E", precision, size);
    case 'g':
    case 'n':
      return Print(spec.alternate ? "%#.*g" : "%.*g", precision, size);
    case 'G':
      return Print(spec.alternate ? "%#.*G" : "%.*G", precision, size);
    case '%':
      return Print("%.*f", precision, size * 100) + "%";
    default:
      throw Failure(std::string("unknown format code '") + spec.type + "' for a float");
  }
}

std::string IntegerDigits(int64_t number, const Spec& spec) {
  const uint64_t size =
      number < 0 ? ~static_cast<uint64_t>(number) + 1 : static_cast<uint64_t>(number);
  const int base = spec.type == 'b'                       ? 2
                   : spec.type == 'o'                     ? 8
                   : spec.type == 'x' || spec.type == 'X' ? 16
                                                          : 10;
  char buffer[64];
  const auto result = std::to_chars(buffer, buffer + sizeof(buffer), size, base);
  std::string digits(buffer, result.ptr);
  if (spec.type == 'X') digits = ToUpper(digits);
  return digits;
}

// Puts the grouping character between every `step` digits before the point.
std::string Group(const std::string& digits, char grouping, size_t step) {
  if (grouping == '\0') return digits;
  size_t whole = 0;
  while (whole < digits.size() && std::isxdigit(static_cast<unsigned char>(digits[whole]))) ++whole;
  std::string result;
  for (size_t i = 0; i < whole; ++i) {
    if (i > 0 && (whole - i) % step == 0) result.push_back(grouping);
    result.push_back(digits[i]);
  }
  return result + digits.substr(whole);
}

std::string FormatNumber(const Value& value, const Spec& spec) {
  int64_t scratch = 0;
  const int64_t* integer = IfInteger(value, &scratch);
  const bool as_float = integer == nullptr || IsAnyOf(spec.type, "eEfFgG%");
  std::string text;
  bool negative = false;
  if (as_float) {
    const double number = AsDouble(value);
    negative = std::signbit(number) && !std::isnan(number);
    text = Group(FloatDigits(number, spec), spec.grouping, 3);
  } else if (spec.type == 'c') {
    if (*integer < 0 || *integer > 0x10FFFF) throw Failure("%c needs a code point");
    AppendUtf8(static_cast<char32_t>(*integer), &text);
    return text;
  } else {
    if (spec.type != '\0' && !IsAnyOf(spec.type, "bdonxX")) {
      throw Failure(std::string("unknown format code '") + spec.type + "' for an int");
    }
    if (spec.precision >= 0) throw Failure("a precision is not allowed in the format of an int");
    negative = *integer < 0;
    const bool decimal = !IsAnyOf(spec.type, "boxX");
    text = Group(IntegerDigits(*integer, spec), spec.grouping, decimal ? 3 : 4);
  }
  std::string sign = negative ? "-" : spec.sign == '-' ? "" : std::string(1, spec.sign);
  if (spec.alternate && integer && IsAnyOf(spec.type, "boxX")) {
    sign += std::string("0") + spec.type;
  }
  return Pad(sign + text, spec.fill, spec.width, spec.align == '\0' ? '>' : spec.align,
             sign.size());
}

std::string Truncated(const std::string& text, int64_t precision) {
  if (precision < 0) return text;
  size_t end = 0;
  for (int64_t i = 0; i < precision && end < text.size(); ++i) NextCodePoint(text, &end);
  return text.substr(0, end);
}

}  // namespace

std::string FormatValue(const Value& value, std::string_view spec_text, Budget* budget) {
  if (spec_text.empty()) return ToText(value, budget);
  const Spec spec = ParseSpec(spec_text, value);
  budget->Bytes(static_cast<uint64_t>(spec.width) * spec.fill.size());
  if (IsNumber(value) && !(value.If<bool>() && spec.type == 's')) return FormatNumber(value, spec);
  const bool string_like = value.IsString() && (spec.type == '\0' || spec.type == 's') &&
                           spec.sign == '-' && !spec.alternate && spec.grouping == '\0' &&
                           spec.align != '=';
  if (!string_like) {
    throw Failure("unsupported format string passed to a " + std::string(value.TypeName()));
  }
  return Pad(Truncated(ToText(value, budget), spec.precision), spec.fill, spec.width,
             spec.align == '\0' ? '<' : spec.align, 0);
}

namespace {

// One call of str.format.
class Formatter {
 public:
  Formatter(const Arguments& arguments, Budget* budget) : arguments_(arguments), budget_(budget) {}

  std::string Run(std::string_view text, int depth) {
    if (depth == 0) throw Failure("max string recursion exceeded in a format");
    std::string result;
    while (!text.empty()) {
      const char c = text.front();
      text.remove_prefix(1);
      if ((c == '{' || c == '}') && text.starts_with(c)) {
        text.remove_prefix(1);
        result.push_back(c);
      } else if (c == '}') {
        throw Failure("single '}' in a format");
      } else if (c == '{') {
        result += Field(TakeField(&text), depth);
      } else {
        result.push_back(c);
      }
    }
    budget_->Bytes(result.size());
    return result;
  }

 private:
  // The text up to the closing brace, which is dropped.
  static std::string_view TakeField(std::string_view* text) {
    int open = 1;
    for (size_t i = 0; i < text->size(); ++i) {
      open += (*text)[i] == '{' ? 1 : (*text)[i] == '}' ? -1 : 0;
      if (open > 0) continue;
      const std::string_view field = text->substr(0, i);
      text->remove_prefix(i + 1);
      return field;
    }
    throw Failure("expected '}' in a format");
  }

  std::string Field(std::string_view field, int depth) {
    size_t name_end = 0;
    bool in_index = false;
    for (; name_end < field.size(); ++name_end) {
      const char c = field[name_end];
      in_index = c == '[' || (in_index && c != ']');
      if (!in_index && (c == ':' || c == '!')) break;
    }
    const Value value = Named(field.substr(0, name_end));
    std::string_view rest = field.substr(name_end);
    std::optional<std::string> converted;
    if (rest.starts_with('!')) {
      const char conversion = rest.size() > 1 ? rest[1] : '\0';
      if (conversion != 'r' && conversion != 's') throw Failure("unknown conversion in a format");
      converted = conversion == 'r' ? ToRepr(value, budget_) : ToText(value, budget_);
      rest.remove_prefix(2);
      if (!rest.empty() && rest.front() != ':') throw Failure("expected ':' after a conversion");
    }
    const std::string spec = rest.empty() ? std::string() : Run(rest.substr(1), depth - 1);
    return FormatValue(converted ? Value::String(*converted) : value, spec, budget_);
  }

  Value Named(std::string_view path) {
    const size_t end = std::min(path.find_first_of(".["), path.size());
    const std::string name(path.substr(0, end));
    Value value = Argument(name);
    path.remove_prefix(end);
    while (!path.empty()) {
      const bool is_index = path.front() == '[';
      path.remove_prefix(1);
      const size_t stop =
          is_index ? path.find(']') : std::min(path.find_first_of(".["), path.size());
      if (stop == path.npos || stop == 0) throw Failure("an empty part in a format's field");
      value = Part(value, std::string(path.substr(0, stop)), is_index);
      path.remove_prefix(stop + (is_index ? 1 : 0));
    }
    return value;
  }

  Value Part(const Value& value, const std::string& part, bool is_index) {
    if (!is_index) return Attribute(value, part, budget_);
    const bool digits = part.find_first_not_of("0123456789") == part.npos && part.size() < 10;
    return Item(value, digits ? Value::Int(std::stoll(part)) : Value::String(part), budget_);
  }

  Value Argument(const std::string& name) {
    const bool digits =
        !name.empty() && name.size() < 10 && name.find_first_not_of("0123456789") == name.npos;
    if (name.empty() || digits) {
      if (numbered_ && *numbered_ != digits) {
        throw Failure("a format mixes numbered and unnumbered fields");
      }
      numbered_ = digits;
      const size_t index = digits ? std::stoul(name) : next_++;
      if (index < arguments_.positional.size()) return arguments_.positional[index];
      throw Failure("a format has more fields than arguments");
    }
    for (const auto& [key, value] : arguments_.named) {
      if (key == name) return value;
    }
    throw Failure("a format names the argument " + name + ", which is missing");
  }

  const Arguments& arguments_;
  Budget* budget_;
  size_t next_ = 0;
  std::optional<bool> numbered_;
};

// One evaluation of text % arguments.
class PercentFormatter {
 public:
  PercentFormatter(const Value& arguments, Budget* budget)
      : arguments_(arguments), budget_(budget) {}

  std::string Run(std::string_view text) {
    std::string result;
    while (!text.empty()) {
      const char c = text.front();
      text.remove_prefix(1);
      if (c != '%') {
        result.push_back(c);
      } else {
        result += Conversion(&text);
      }
    }
    const List* tuple = Tuple();
    // What has items by key or index may go unused.
    const bool may_rest = arguments_.IfDict() || arguments_.IsUndefined() ||
                          (arguments_.IfList() && arguments_.IfList()->IsSequence());
    if (tuple ? next_ < tuple->items.size() : next_ == 0 && !may_rest) {
      throw Failure("not all arguments were converted by the % format");
    }
    budget_->Bytes(result.size());
    return result;
  }

 private:
  const List* Tuple() const {
    const List* list = arguments_.IfList();
    return list && list->IsTuple() ? list : nullptr;
  }

  Value Next() {
    const List* tuple = Tuple();
    if (next_ >= (tuple ? tuple->items.size() : 1))
      throw Failure("not enough arguments for a % format");
    return tuple ? tuple->items[next_++] : (++next_, arguments_);
  }

  Value Keyed(std::string_view* text) {
    int open = 1;
    for (size_t i = 0; i < text->size(); ++i) {
      open += (*text)[i] == '(' ? 1 : (*text)[i] == ')' ? -1 : 0;
      if (open > 0) continue;
      const std::string key(text->substr(0, i));
      text->remove_prefix(i + 1);
      if (arguments_.IfDict() == nullptr) throw Failure("a % format with names needs a dict");
      const Value* found = arguments_.IfDict()->Find(key);
      if (found == nullptr) throw Failure("a % format names the key " + key + ", which is missing");
      return *found;
    }
    throw Failure("incomplete key in a % format");
  }

  int64_t TakeWidth(std::string_view* text, int64_t fallback) {
    if (text->starts_with('*')) {
      text->remove_prefix(1);
      const Value width = Next();
      const int64_t* integer = width.If<int64_t>();
      if (integer == nullptr || std::abs(*integer) > kMaxWidth) throw Failure("* wants an int");
      return *integer;
    }
    int64_t number = fallback;
    TakeDigits(text, kMaxWidth, &number);
    return number;
  }

  std::string Conversion(std::string_view* text) {
    std::optional<Value> value;
    if (text->starts_with('(')) {
      text->remove_prefix(1);
      value = Keyed(text);
    }
    Spec spec;
    spec.align = '>';
    char flag = '\0';
    bool zero = false;
    while (TakeAny(text, "-+ #0", &flag)) {
      if (flag == '-') spec.align = '<';
      if (flag == '+' || (flag == ' ' && spec.sign == '-')) spec.sign = flag;
      spec.alternate |= flag == '#';
      zero |= flag == '0';
    }
    spec.width = TakeWidth(text, 0);
    if (spec.width < 0) spec.align = '<';
    spec.width = std::abs(spec.width);
    if (text->starts_with('.')) {
      text->remove_prefix(1);
      spec.precision = std::max<int64_t>(TakeWidth(text, 0), 0);
    }
    while (TakeAny(text, "hlL", &flag)) {
    }
    if (text->empty()) throw Failure("incomplete % format");
    spec.type = text->front();
    text->remove_prefix(1);
    if (spec.type == '%') return "%";
    if (zero && spec.align == '>') spec.fill = "0";
    budget_->Bytes(static_cast<uint64_t>(spec.width));
    return Convert(value ? *value : Next(), spec);
  }

  std::string Convert(const Value& value, Spec spec) {
    if (spec.type == 's' || spec.type == 'r') {
      const std::string text = spec.type == 's' ? ToText(value, budget_) : ToRepr(value, budget_);
      return Pad(Truncated(text, spec.precision), " ", spec.width, spec.align, 0);
    }
    if (spec.type == 'c') {
      if (value.IsString() && LengthOf(value.Text()) == 1) {
        return Pad(value.Text(), " ", spec.width, spec.align, 0);
      }
      int64_t scratch = 0;
      if (IfInteger(value, &scratch) == nullptr) throw Failure("%c needs an int or a character");
      return Pad(FormatNumber(value, spec), " ", spec.width, spec.align, 0);
    }
    if (!IsAnyOf(spec.type, "diuoxXeEfFgG")) {
      throw Failure(std::string("unsupported format character '") + spec.type + "'");
    }
    if (!IsNumber(value)) {
      throw Failure(std::string("a % format needs a number, not a ") + value.TypeName());
    }
    if (spec.fill == "0") spec.align = '=';
    return FormatNumber(WithDigits(value, &spec), spec);
  }

  // The number as its type wants it: %d takes the whole part of a float.
  static Value WithDigits(const Value& value, Spec* spec) {
    if (IsAnyOf(spec->type, "eEfFgG")) return value;
    const bool decimal = spec->type == 'd' || spec->type == 'i' || spec->type == 'u';
    if (decimal) spec->type = 'd';
    if (spec->precision >= 0) {
      throw Error(ErrorCode::kUnsupported,
                  "chat template: a precision of integers in a % format is not supported");
    }
    const double* number = value.If<double>();
    if (number == nullptr) return value;
    if (!decimal || !(std::fabs(*number) < 9.2e18)) {
      throw Failure("a % format needs an int, not a float");
    }
    return Value::Int(static_cast<int64_t>(*number));
  }

  const Value& arguments_;
  Budget* budget_;
  size_t next_ = 0;
};

}  // namespace

std::string FormatText(std::string_view text, const Arguments& arguments, Budget* budget) {
  return Formatter(arguments, budget).Run(text, /*depth=*/2);
}

std::string PercentFormat(std::string_view text, const Value& arguments, Budget* budget) {
  return PercentFormatter(arguments, budget).Run(text);
}

}  // namespace sluice::jinja
