#include "chat/jinja_lexer.h"

#include <algorithm>
#include <array>

#include "chat/jinja_text.h"

namespace sluice::jinja {
namespace {

constexpr std::array<std::string_view, 27> kOperators = {
    "**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "<", ">", "=",
    "(",  ")",  "[",  "]",  "{",  "}",  ",", ":", ".", "|", "~", ";", "!"};

bool IsDigit(char c) {
  return c >= '0' && c <= '9';
}

// Bytes above ASCII count as letters: Jinja takes Unicode identifiers.
bool IsNameStart(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (c & 0x80) != 0;
}

// Newlines become \n and one at the end is dropped.
std::string NormalizeNewlines(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      text.push_back(source[i]);
      continue;
    }
    text.push_back('\n');
    if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
  }
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(NormalizeNewlines(source)) {}

  std::vector<Token> Run() {
    while (position_ < source_.size()) LexTextAndTag();
    Add(Token::Kind::kEnd, {});
    return std::move(tokens_);
  }

 private:
  char At(size_t offset) const {
    return position_ + offset < source_.size() ? source_[position_ + offset] : '\0';
  }
  bool StartsWith(std::string_view text) const {
    return std::string_view(source_).substr(position_).starts_with(text);
  }
  void Advance(size_t count) {
    for (size_t i = 0; i < count; ++i) {
      if (source_[position_] == '\n') {
        ++place_.line;
        place_.column = 1;
      } else {
        ++place_.column;
      }
      ++position_;
    }
  }
  void Add(Token::Kind kind, std::string text) {
    tokens_.push_back({kind, place_, std::move(text)});
  }
  Error Broken(const std::string& message) const {
    return ErrorAt(ErrorCode::kDataLoss, place_, message);
  }

  // Lexes the text up to the next tag, and the tag.
  void LexTextAndTag() {
    const size_t tag = FindTag();
    std::string text = source_.substr(position_, tag - position_);
    const bool has_tag = tag < source_.size();
    const char kind = has_tag ? source_[tag + 1] : '\0';
    const char sign = has_tag && tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    if (sign == '-') {
      text = StripRight(text);
    } else if (has_tag && sign != '+' && kind != '{') {
      DropBlanksOfTagLine(&text);
    }
    if (!text.empty()) Add(Token::Kind::kText, std::move(text));
    Advance(tag - position_);
    if (!has_tag) return;
    if (kind == '#') return SkipComment();
    if (kind == '%' && LexRaw()) return;
    Add(kind == '{' ? Token::Kind::kPrintBegin : Token::Kind::kBlockBegin, {});
    Advance(sign == '-' || sign == '+' ? 3 : 2);
    LexInside(kind == '{');
  }

  size_t FindTag() const {
    size_t at = position_;
    while ((at = source_.find('{', at)) != source_.npos) {
      const char next = at + 1 < source_.size() ? source_[at + 1] : '\0';
      if (next == '{' || next == '%' || next == '#') return at;
      ++at;
    }
    return source_.size();
  }

  void DropBlanksOfTagLine(std::string* text) const {
    const size_t newline = text->rfind('\n');
    if (newline == text->npos && !line_starting_) return;
    const size_t line = newline == text->npos ? 0 : newline + 1;
    if (StripRight(text->substr(line)).empty()) text->resize(line);
  }

  void SkipComment() {
    const size_t begin = position_ + (At(2) == '-' || At(2) == '+' ? 3 : 2);
    const size_t close = source_.find("#}", begin);
    if (close == source_.npos) throw Broken("a comment {# without its #}");
    const bool strips = close > begin && source_[close - 1] == '-';
    const bool keeps = close > begin && source_[close - 1] == '+';
    Advance(close + 2 - position_);
    EndTag(strips, !keeps);
  }

  // The bytes of a tag with nothing but `name` in it, which begins at `from`; 0 for another tag.
  // `sign` gets the sign before its end.
  size_t SizeOfPlainTag(size_t from, std::string_view name, char* sign) const {
    const std::string_view rest = std::string_view(source_).substr(from);
    size_t at = 2 + (rest.size() > 2 && (rest[2] == '-' || rest[2] == '+') ? 1 : 0);
    const auto skip_space = [&] {
      const std::string_view tail = rest.substr(std::min(at, rest.size()));
      at += tail.size() - StripLeft(tail).size();
    };
    skip_space();
    if (at >= rest.size() || !rest.substr(at).starts_with(name)) return 0;
    at += name.size();
    skip_space();
    *sign = at < rest.size() && (rest[at] == '-' || rest[at] == '+') ? rest[at] : '\0';
    if (*sign != '\0') ++at;
    return rest.substr(std::min(at, rest.size())).starts_with("%}") ? at + 2 : 0;
  }

  // Lexes {% raw %}...{% endraw %} as text; false when no such block begins here.
  bool LexRaw() {
    char sign = '\0';
    const size_t size = SizeOfPlainTag(position_, "raw", &sign);
    if (size == 0 || sign == '+') return false;
    Advance(size);
    if (sign == '-') SkipSpace();
    line_starting_ = source_[position_ - 1] == '\n';
    for (size_t end = source_.find("{%", position_); end != source_.npos;
         end = source_.find("{%", end + 1)) {
      const size_t end_size = SizeOfPlainTag(end, "endraw", &sign);
      if (end_size == 0) continue;
      std::string text = source_.substr(position_, end - position_);
      if (source_[end + 2] == '-') {
        text = StripRight(text);
      } else if (source_[end + 2] != '+') {
        DropBlanksOfTagLine(&text);
      }
      if (!text.empty()) Add(Token::Kind::kText, std::move(text));
      Advance(end - position_ + end_size);
      EndTag(sign == '-', sign != '+');
      return true;
    }
    throw Broken("a block {% raw %} without its {% endraw %}");
  }

  // Drops what the end of a tag takes from the text behind it.
  void EndTag(bool strips, bool trims) {
    const size_t before = position_;
    if (strips) {
      SkipSpace();
    } else if (trims && At(0) == '\n') {
      Advance(1);
    }
    line_starting_ = position_ > before && source_[position_ - 1] == '\n';
  }

  void SkipSpace() {
    const std::string_view rest = std::string_view(source_).substr(position_);
    Advance(rest.size() - StripLeft(rest).size());
  }

  void LexInside(bool prints) {
    std::string open;  // the closing brackets that are awaited
    while (true) {
      SkipSpace();
      if (position_ >= source_.size()) throw Broken("a tag without its end");
      if (open.empty() && LexTagEnd(prints)) return;
      if (IsDigit(At(0))) {
        LexNumber();
      } else if (IsNameStart(At(0))) {
        LexName();
      } else if (At(0) == '\'' || At(0) == '"') {
        LexString();
      } else {
        LexOperator(&open);
      }
    }
  }

  bool LexTagEnd(bool prints) {
    const std::string_view end = prints ? "}}" : "%}";
    const char sign = At(0) == '-' || (At(0) == '+' && !prints) ? At(0) : '\0';
    const size_t skipped = sign == '\0' ? 0 : 1;
    if (std::string_view(source_).substr(std::min(position_ + skipped, source_.size()), 2) != end) {
      return false;
    }
    Add(prints ? Token::Kind::kPrintEnd : Token::Kind::kBlockEnd, {});
    Advance(skipped + 2);
    EndTag(sign == '-', !prints && sign != '+');
    return true;
  }

  // 0x1F, 0o17 and 0b11.
  bool LexPrefixedNumber() {
    const char letter = static_cast<char>(At(1) | 0x20);
    const std::string_view digits = letter == 'x'   ? "0123456789abcdefABCDEF"
                                    : letter == 'o' ? "01234567"
                                    : letter == 'b' ? "01"
                                                    : "";
    const auto is_digit = [&](char c) { return c != '\0' && digits.find(c) != digits.npos; };
    size_t size = 2;
    if (At(0) != '0' || digits.empty()) return false;
    while (is_digit(At(size)) || (At(size) == '_' && is_digit(At(size + 1)))) ++size;
    if (size == 2) return false;
    AddNumber(Token::Kind::kInteger, size);
    return true;
  }

  void AddNumber(Token::Kind kind, size_t size) {
    if (IsNameStart(At(size)) || IsDigit(At(size))) throw Broken("a number followed by a letter");
    std::string text = source_.substr(position_, size);
    std::erase(text, '_');
    Add(kind, std::move(text));
    Advance(size);
  }

  void LexNumber() {
    if (LexPrefixedNumber()) return;
    size_t size = 0;
    // In a.0.1 the digits are indices.
    const bool after_dot = position_ > 0 && source_[position_ - 1] == '.';
    const auto digits = [&] {
      while (IsDigit(At(size)) || (At(size) == '_' && IsDigit(At(size + 1)))) ++size;
    };
    digits();
    bool is_float = false;
    if (!after_dot && At(size) == '.' && IsDigit(At(size + 1))) {
      is_float = true;
      ++size;
      digits();
    }
    if (!after_dot && (At(size) == 'e' || At(size) == 'E')) {
      const size_t sign = At(size + 1) == '+' || At(size + 1) == '-' ? 1 : 0;
      if (IsDigit(At(size + 1 + sign))) {
        is_float = true;
        size += 1 + sign;
        digits();
      }
    }
    const bool leading_zero = At(0) == '0' && size > 1 && !is_float &&
                              source_.find_first_not_of("0_", position_) < position_ + size;
    if (leading_zero) throw Broken("an integer that begins with 0");
    AddNumber(is_float ? Token::Kind::kFloat : Token::Kind::kInteger, size);
  }

  void LexName() {
    size_t size = 1;
    while (IsNameStart(At(size)) || IsDigit(At(size))) ++size;
    Add(Token::Kind::kName, source_.substr(position_, size));
    Advance(size);
  }

  void LexString() {
    const char quote = At(0);
    size_t end = 1;
    while (position_ + end < source_.size() && At(end) != quote) end += At(end) == '\\' ? 2 : 1;
    if (position_ + end >= source_.size()) throw Broken("a string without its end");
    const auto text = Unescape(std::string_view(source_).substr(position_ + 1, end - 1));
    if (!text) throw Broken("a string with a broken escape");
    Add(Token::Kind::kString, *text);
    Advance(end + 1);
  }

  void LexOperator(std::string* open) {
    const auto found = std::ranges::find_if(
        kOperators, [this](std::string_view candidate) { return StartsWith(candidate); });
    if (found == kOperators.end()) throw Broken(std::string("unexpected character ") + At(0));
    if (*found == "(") open->push_back(')');
    if (*found == "[") open->push_back(']');
    if (*found == "{") open->push_back('}');
    if (*found == ")" || *found == "]" || *found == "}") {
      if (open->empty() || open->back() != found->front())
        throw Broken("unexpected " + std::string(*found));
      open->pop_back();
    }
    Add(Token::Kind::kOperator, std::string(*found));
    Advance(found->size());
  }

  const std::string source_;
  size_t position_ = 0;
  Place place_;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> Lex(std::string_view source) {
  return Lexer(source).Run();
}

Error ErrorAt(ErrorCode code, Place place, const std::string& message) {
  return Error(code, "chat template, line " + std::to_string(place.line) + ", column " +
                         std::to_string(place.column) + ": " + message);
}

}  // namespace sluice::jinja
