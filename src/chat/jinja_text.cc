#include "chat/jinja_text.h"

#include <utf8proc.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/error.h"
#include "tokenizer/utf8.h"

namespace sluice::jinja {
namespace {

utf8proc_category_t CategoryOf(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

std::string Hex(char32_t c, int digits) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (int shift = (digits - 1) * 4; shift >= 0; shift -= 4) {
    text.push_back(kDigits[(c >> shift) & 15]);
  }
  return text;
}

// Reads `digits` digits of base 8 or 16 at text[*position]; nothing when there are fewer.
std::optional<char32_t> ReadCode(std::string_view text, size_t* position, size_t digits, int base) {
  uint32_t code = 0;
  const std::string_view field = text.substr(*position, digits);
  const auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), code, base);
  if (error != std::errc() || end != field.data() + digits || field.size() != digits)
    return std::nullopt;
  if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return std::nullopt;
  *position += digits;
  return static_cast<char32_t>(code);
}

// The value of a one-letter escape, or -1.
int SimpleEscape(char c) {
  switch (c) {
    case 'n':
      return '\n';
    case 't':
      return '\t';
    case 'r':
      return '\r';
    case 'a':
      return '\a';
    case 'b':
      return '\b';
    case 'f':
      return '\f';
    case 'v':
      return '\v';
    case '\\':
      return '\\';
    case '\'':
      return '\'';
    case '"':
      return '"';
    default:
      return -1;
  }
}

}  // namespace

bool IsPrintable(char32_t c) {
  if (c == ' ') return true;
  switch (CategoryOf(c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    default:
      return true;
  }
}

bool IsPythonSpace(char32_t c) {
  return IsWhiteSpace(c) || (c >= 0x1C && c <= 0x1F);
}

std::string_view StripLeft(std::string_view text) {
  size_t begin = 0;
  while (begin < text.size()) {
    size_t next = begin;
    if (!IsPythonSpace(NextCodePoint(text, &next))) break;
    begin = next;
  }
  return text.substr(begin);
}

std::string_view StripRight(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t previous = end;
    if (!IsPythonSpace(PreviousCodePoint(text, &previous))) break;
    end = previous;
  }
  return text.substr(0, end);
}

std::string StripAnyOf(std::string_view text, std::string_view characters, bool left, bool right) {
  const auto is_stripped = [&](char32_t c) {
    for (size_t i = 0; i < characters.size();) {
      if (NextCodePoint(characters, &i) == c) return true;
    }
    return false;
  };
  size_t begin = 0;
  size_t end = text.size();
  while (left && begin < end) {
    size_t next = begin;
    if (!is_stripped(NextCodePoint(text, &next))) break;
    begin = next;
  }
  while (right && end > begin) {
    size_t previous = end;
    if (!is_stripped(PreviousCodePoint(text, &previous))) break;
    end = previous;
  }
  return std::string(text.substr(begin, end - begin));
}

size_t LengthOf(std::string_view text) {
  size_t count = 0;
  for (const char c : text) count += (c & 0xC0) != 0x80;
  return count;
}

std::vector<std::string> CharactersOf(std::string_view text) {
  std::vector<std::string> characters;
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    NextCodePoint(text, &i);
    characters.emplace_back(text.substr(begin, i - begin));
  }
  return characters;
}

std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to,
                       int64_t count) {
  std::string result;
  size_t done = 0;
  while (count != 0) {
    size_t at = done;
    if (from.empty()) {
      // An empty string is found before every character and at the end.
      result += to;
      if (done == text.size()) return result;
      NextCodePoint(text, &at);
      result += text.substr(done, at - done);
      done = at;
    } else {
      at = text.find(from, done);
      if (at == text.npos) break;
      result += text.substr(done, at - done);
      result += to;
      done = at + from.size();
    }
    --count;
  }
  result += text.substr(done);
  return result;
}

std::string ReplaceWithin(std::string_view text, std::string_view from, std::string_view to,
                          int64_t count, Budget* budget) {
  uint64_t most = text.size() / std::max<size_t>(from.size(), 1) + 1;
  if (count >= 0) most = std::min(most, static_cast<uint64_t>(count));
  budget->Bytes(text.size() + most * to.size());
  budget->Step(text.size() / 256);
  return ReplaceAll(text, from, to, count);
}

std::vector<std::string> LinesOf(std::string_view text, bool keep_ends) {
  const auto breaks = [](char32_t c) {
    return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
           c == 0x2029;
  };
  std::vector<std::string> lines;
  size_t begin = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t end = i;
    const char32_t c = NextCodePoint(text, &i);
    if (!breaks(c)) continue;
    if (c == '\r' && i < text.size() && text[i] == '\n') ++i;
    lines.emplace_back(text.substr(begin, (keep_ends ? i : end) - begin));
    begin = i;
  }
  if (begin < text.size()) lines.emplace_back(text.substr(begin));
  return lines;
}

std::string PadText(const std::string& text, int64_t width, char32_t fill, Side side,
                    Budget* budget) {
  const auto size = static_cast<int64_t>(LengthOf(text));
  if (width <= size) return text;
  const int64_t missing = width - size;
  budget->Bytes(static_cast<uint64_t>(missing) * 4);
  // Python puts the odd one left when the width is odd.
  const int64_t left = side == Side::kLeft    ? missing
                       : side == Side::kRight ? 0
                                              : missing / 2 + (missing & width & 1);
  std::string result;
  for (int64_t i = 0; i < left; ++i) AppendUtf8(fill, &result);
  result += text;
  for (int64_t i = left; i < missing; ++i) AppendUtf8(fill, &result);
  return result;
}

std::optional<std::string> Unescape(std::string_view text) {
  std::string result;
  for (size_t i = 0; i < text.size();) {
    if (text[i] != '\\') {
      result.push_back(text[i++]);
      continue;
    }
    if (++i == text.size()) return std::nullopt;
    const char c = text[i++];
    std::optional<char32_t> code;
    if (c == '\n') continue;
    if (const int simple = SimpleEscape(c); simple >= 0) {
      code = static_cast<char32_t>(simple);
    } else if (c == 'x' || c == 'u' || c == 'U') {
      code = ReadCode(text, &i, c == 'x' ? 2 : c == 'u' ? 4 : 8, 16);
      if (!code) return std::nullopt;
    } else if (c >= '0' && c <= '7') {
      size_t digits = 1;
      while (digits < 3 && i - 1 + digits < text.size() && text[i - 1 + digits] >= '0' &&
             text[i - 1 + digits] <= '7') {
        ++digits;
      }
      code = ReadCode(text, &--i, digits, 8);
    }
    if (code) {
      AppendUtf8(*code, &result);
    } else {
      result.push_back('\\');
      result.push_back(c);
    }
  }
  return result;
}

std::string FloatRepr(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number < 0 ? "-inf" : "inf";
  char buffer[64];
  const double size = std::fabs(number);
  // Python switches to an exponent outside [1e-4, 1e16).
  const bool fixed = number == 0 || (size >= 1e-4 && size < 1e16);
  const auto format = fixed ? std::chars_format::fixed : std::chars_format::scientific;
  const auto result = std::to_chars(buffer, buffer + sizeof(buffer), number, format);
  std::string text(buffer, result.ptr);
  if (fixed && text.find('.') == text.npos) text += ".0";
  return text;
}

std::string StringRepr(std::string_view text) {
  const bool double_quotes = text.find('\'') != text.npos && text.find('"') == text.npos;
  const char32_t quote = double_quotes ? '"' : '\'';
  std::string repr(1, static_cast<char>(quote));
  for (size_t i = 0; i < text.size();) {
    const char32_t c = NextCodePoint(text, &i);
    if (c == quote || c == '\\') {
      repr.push_back('\\');
      repr.push_back(static_cast<char>(c));
    } else if (c == '\n') {
      repr += "\\n";
    } else if (c == '\r') {
      repr += "\\r";
    } else if (c == '\t') {
      repr += "\\t";
    } else if (IsPrintable(c)) {
      AppendUtf8(c, &repr);
    } else if (c < 0x100) {
      repr += "\\x" + Hex(c, 2);
    } else {
      repr += c < 0x10000 ? "\\u" + Hex(c, 4) : "\\U" + Hex(c, 8);
    }
  }
  repr.push_back(static_cast<char>(quote));
  return repr;
}

bool IsAlphabetic(char32_t c) {
  const utf8proc_category_t category = CategoryOf(c);
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool IsDecimal(char32_t c) {
  return CategoryOf(c) == UTF8PROC_CATEGORY_ND;
}

bool IsDigit(char32_t c) {
  // What has Unicode's Numeric_Type=Digit, first and last.
  static constexpr std::pair<char32_t, char32_t> kDigits[] = {
      {0xB2, 0xB3},       {0xB9, 0xB9},       {0x1369, 0x1371},   {0x19DA, 0x19DA},
      {0x2070, 0x2070},   {0x2074, 0x2079},   {0x2080, 0x2089},   {0x2460, 0x2468},
      {0x2474, 0x247C},   {0x2488, 0x2490},   {0x24EA, 0x24EA},   {0x24F5, 0x24FD},
      {0x24FF, 0x24FF},   {0x2776, 0x277E},   {0x2780, 0x2788},   {0x278A, 0x2792},
      {0x10A40, 0x10A43}, {0x10E60, 0x10E68}, {0x11052, 0x1105A}, {0x1F100, 0x1F10A}};
  return IsDecimal(c) || std::ranges::any_of(kDigits, [c](const auto& range) {
           return range.first <= c && c <= range.second;
         });
}

bool IsNumeric(char32_t c) {
  const utf8proc_category_t category = CategoryOf(c);
  return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
         category == UTF8PROC_CATEGORY_NO;
}

bool IsUpper(char32_t c) {
  return CategoryOf(c) == UTF8PROC_CATEGORY_LU;
}
bool IsLower(char32_t c) {
  return CategoryOf(c) == UTF8PROC_CATEGORY_LL;
}
bool AllCased(std::string_view text, bool (*predicate)(char32_t)) {
  bool any = false;
  for (size_t i = 0; i < text.size();) {
    const char32_t c = NextCodePoint(text, &i);
    if (!IsUpper(c) && !IsLower(c) && CategoryOf(c) != UTF8PROC_CATEGORY_LT) continue;
    if (!predicate(c)) return false;
    any = true;
  }
  return any;
}

namespace {

// Writes str() and repr(), charging what it writes.
class TextWriter {
 public:
  explicit TextWriter(Budget* budget) : budget_(budget) {}

  std::string Run(const Value& value, bool as_repr) {
    if (as_repr) {
      Repr(value);
    } else {
      Text(value);
    }
    return std::move(out_);
  }

 private:
  void Put(const std::string& text) {
    budget_->Bytes(text.size());
    out_ += text;
  }

  void Repr(const Value& value) {
    budget_->Step();
    if (value.IsString()) return Put(StringRepr(value.Text()));
    // What is undefined has an empty str() and a named repr().
    if (value.IsUndefined()) return Put("Undefined");
    Text(value);
  }

  void Text(const Value& value) {
    if (value.IsUndefined()) return;
    if (value.IsNone()) return Put("None");
    if (const bool* flag = value.If<bool>()) return Put(*flag ? "True" : "False");
    if (const int64_t* integer = value.If<int64_t>()) return Put(std::to_string(*integer));
    if (const double* number = value.If<double>()) return Put(FloatRepr(*number));
    if (value.IsString()) return Put(value.Text());
    if (const List* list = value.IfList()) return PutList(*list);
    if (const Dict* dict = value.IfDict()) return PutDict(*dict);
    PutObject(value);
  }

  void PutObject(const Value& value) {
    if (const auto* space = value.If<std::shared_ptr<Namespace>>()) {
      Put("<Namespace ");
      PutDict((*space)->attributes);
      return Put(">");
    }
    if (const auto* loop = value.If<std::shared_ptr<Loop>>()) {
      return Put("<LoopContext " + std::to_string((*loop)->index + 1) + "/" +
                 std::to_string((*loop)->items->items.size()) + ">");
    }
    const auto* callable = value.If<std::shared_ptr<const Callable>>();
    if (callable != nullptr && (*callable)->kind == Callable::Kind::kMacro) {
      return Put("<Macro " + StringRepr((*callable)->name) + ">");
    }
    throw Error(ErrorCode::kUnsupported, std::string("chat template: printing a ") +
                                             value.TypeName() +
                                             " is not supported; pass a generator through |list");
  }

  void PutList(const List& list) {
    using Form = List::Form;
    if (list.form == Form::kRange) return PutRange(list);
    const bool is_view = list.form >= Form::kKeysView;
    if (is_view) Put(list.TypeName());
    Put(list.IsTuple() ? "(" : is_view ? "([" : "[");
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) Put(", ");
      Repr(list.items[i]);
    }
    if (list.IsTuple() && list.items.size() == 1) Put(",");
    Put(list.IsTuple() ? ")" : is_view ? "])" : "]");
  }

  void PutRange(const List& list) {
    const auto& [start, stop, step] = list.range;
    Put("range(" + std::to_string(start) + ", " + std::to_string(stop) +
        (step == 1 ? "" : ", " + std::to_string(step)) + ")");
  }

  void PutDict(const Dict& dict) {
    Put("{");
    for (size_t i = 0; i < dict.entries.size(); ++i) {
      if (i > 0) Put(", ");
      Repr(dict.entries[i].first);
      Put(": ");
      Repr(dict.entries[i].second);
    }
    Put("}");
  }

  Budget* budget_;
  std::string out_;
};

}  // namespace

std::string ToRepr(const Value& value, Budget* budget) {
  return TextWriter(budget).Run(value, /*as_repr=*/true);
}

std::string ToText(const Value& value, Budget* budget) {
  return TextWriter(budget).Run(value, /*as_repr=*/false);
}

}  // namespace sluice::jinja
