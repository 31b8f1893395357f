#include "chat/jinja_text.h"

#include <utf8proc.h>

#include <charconv>
#include <cmath>

#include "base/error.h"
#include "tokenizer/utf8.h"

namespace sluice::jinja {
namespace {

template <class Map>
std::string MapCharacters(std::string_view text, Map map) {
  std::string result;
  result.reserve(text.size());
  for (size_t i = 0; i < text.size();) AppendUtf8(map(NextCodePoint(text, &i)), &result);
  return result;
}

char32_t Upper(char32_t c) {
  return static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c)));
}
char32_t Lower(char32_t c) {
  return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
}
char32_t Title(char32_t c) {
  return static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c)));
}
bool IsCased(char32_t c) {
  return Upper(c) != c || Lower(c) != c;
}

bool IsPrintable(char32_t c) {
  if (c == ' ') return true;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
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

std::string Hex(char32_t c, int digits) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (int shift = (digits - 1) * 4; shift >= 0; shift -= 4) {
    text.push_back(kDigits[(c >> shift) & 15]);
  }
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

std::string ListRepr(const List& list) {
  if (list.form == List::Form::kGenerator) {
    throw Error(ErrorCode::kUnsupported,
                "chat template: printing a generator is not supported; pass it through |list");
  }
  const bool tuple = list.form == List::Form::kTuple;
  std::string text = tuple ? "(" : "[";
  for (size_t i = 0; i < list.items.size(); ++i) {
    if (i > 0) text += ", ";
    text += ToRepr(list.items[i]);
  }
  if (tuple && list.items.size() == 1) text += ",";
  return text + (tuple ? ")" : "]");
}

std::string DictRepr(const Dict& dict) {
  std::string text = "{";
  for (const auto& [key, value] : dict.entries) {
    if (text.size() > 1) text += ", ";
    text += ToRepr(key) + ": " + ToRepr(value);
  }
  return text + "}";
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

bool IsPythonSpace(char32_t c) {
  return IsWhiteSpace(c) || (c >= 0x1C && c <= 0x1F);
}

std::string StripLeft(std::string_view text) {
  size_t begin = 0;
  while (begin < text.size()) {
    size_t next = begin;
    if (!IsPythonSpace(NextCodePoint(text, &next))) break;
    begin = next;
  }
  return std::string(text.substr(begin));
}

std::string StripRight(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t previous = end;
    if (!IsPythonSpace(PreviousCodePoint(text, &previous))) break;
    end = previous;
  }
  return std::string(text.substr(0, end));
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

std::string ToUpper(std::string_view text) {
  return MapCharacters(text, Upper);
}
std::string ToLower(std::string_view text) {
  return MapCharacters(text, Lower);
}

std::string Capitalize(std::string_view text) {
  bool first = true;
  return MapCharacters(
      text, [&](char32_t c) { return std::exchange(first, false) ? Title(c) : Lower(c); });
}

std::string ToTitle(std::string_view text) {
  bool after_cased = false;
  return MapCharacters(text, [&](char32_t c) {
    return std::exchange(after_cased, IsCased(c)) ? Lower(c) : Title(c);
  });
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

std::string ToRepr(const Value& value) {
  if (value.IsString()) return StringRepr(value.Text());
  // What is undefined has an empty str() and a named repr().
  return value.IsUndefined() ? "Undefined" : ToText(value);
}

std::string ToText(const Value& value) {
  if (value.IsUndefined()) return {};
  if (value.IsNone()) return "None";
  if (const bool* flag = value.If<bool>()) return *flag ? "True" : "False";
  if (const int64_t* integer = value.If<int64_t>()) return std::to_string(*integer);
  if (const double* number = value.If<double>()) return FloatRepr(*number);
  if (value.IsString()) return value.Text();
  if (const List* list = value.IfList()) return ListRepr(*list);
  if (const Dict* dict = value.IfDict()) return DictRepr(*dict);
  throw Error(ErrorCode::kUnsupported,
              std::string("chat template: printing a ") + value.TypeName() + " is not supported");
}

}  // namespace sluice::jinja
