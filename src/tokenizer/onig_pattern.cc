#include "tokenizer/onig_pattern.h"

#include <algorithm>
#include <array>
#include <vector>

#include "base/error.h"
#include "tokenizer/unicode_versions.h"

namespace sluice {
namespace {

// Without those whose members newer versions of Unicode take away (C, Cn).
constexpr std::array<std::string_view, 35> kCategories = {
    "L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N", "Nd",
    "Nl", "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S", "Sm",
    "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp", "Cc", "Cf", "Co", "Cs"};

constexpr std::array<std::string_view, 14> kScripts = {
    "Han",    "Hiragana", "Katakana",   "Hangul", "Latin", "Greek",   "Cyrillic",
    "Arabic", "Hebrew",   "Devanagari", "Thai",   "Lao",   "Myanmar", "Khmer"};

// The longest published pattern has some 300 bytes; a category becomes up to 2 KB.
constexpr size_t kMaxPatternSize = 16 * 1024;

bool IsAsciiLetterOrDigit(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

// One pass over the pattern; output grows as constructs are understood.
class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  std::string Run() {
    while (!AtEnd()) TranslateItem();
    if (!group_ignores_case_.empty()) throw Refuse("a group without its ')'");
    return std::move(out_);
  }

 private:
  bool AtEnd() const { return position_ >= pattern_.size(); }
  bool StartsWith(std::string_view text) const {
    return pattern_.substr(position_).starts_with(text);
  }
  bool IgnoresCase() const { return !group_ignores_case_.empty() && group_ignores_case_.back(); }

  Error Refuse(const std::string& what) const {
    return Error(ErrorCode::kUnsupported,
                 "split pattern: " + what + " at offset " + std::to_string(position_) +
                     " is not supported; the pattern is " + std::string(pattern_));
  }

  void Copy(size_t count) {
    out_.append(pattern_, position_, count);
    position_ += count;
  }

  void TranslateItem() {
    const char c = pattern_[position_];
    switch (c) {
      case '\\':
        return TranslateEscape(/*in_class=*/false);
      case '[':
        return TranslateClass();
      case '(':
        return TranslateGroupStart();
      case ')':
        if (group_ignores_case_.empty()) throw Refuse("')' without a group");
        group_ignores_case_.pop_back();
        return Copy(1);
      case '{':
        return TranslateRepeat();
      case '^':
      case '$':
        throw Refuse(std::string("the anchor ") + c);
      default:
        return Copy(1);
    }
  }

  void TranslateGroupStart() {
    for (const std::string_view start : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"}) {
      if (!StartsWith(start)) continue;
      group_ignores_case_.push_back(IgnoresCase());
      return Copy(start.size());
    }
    if (StartsWith("(?i:")) {
      group_ignores_case_.push_back(true);
      return Copy(4);
    }
    if (StartsWith("(?") || StartsWith("(*")) throw Refuse("this kind of group");
    group_ignores_case_.push_back(IgnoresCase());
    Copy(1);
  }

  // Handles "{n}", "{n,}" and "{n,m}".
  void TranslateRepeat() {
    const size_t close = pattern_.find('}', position_);
    if (close == std::string_view::npos) throw Refuse("'{' without '}'");
    const std::string_view body = pattern_.substr(position_ + 1, close - position_ - 1);
    const bool well_formed = !body.empty() && body.front() != ',' &&
                             std::count(body.begin(), body.end(), ',') <= 1 &&
                             std::all_of(body.begin(), body.end(),
                                         [](char c) { return c == ',' || (c >= '0' && c <= '9'); });
    if (!well_formed) throw Refuse("this use of '{'");
    if (close + 1 < pattern_.size() && pattern_[close + 1] == '+') throw Refuse("'+' after '}'");
    Copy(body.size() + 2);
  }

  void TranslateClass() {
    Copy(1);
    if (StartsWith("^")) Copy(1);
    if (StartsWith("]")) throw Refuse("']' at the start of a class");
    while (!StartsWith("]")) {
      if (AtEnd()) throw Refuse("a class without its ']'");
      if (StartsWith("[")) throw Refuse("a class within a class");
      if (StartsWith("&&")) throw Refuse("an intersection of classes");
      if (StartsWith("\\")) {
        TranslateEscape(/*in_class=*/true);
      } else {
        Copy(1);
      }
    }
    Copy(1);
  }

  void TranslateEscape(bool in_class) {
    if (position_ + 1 >= pattern_.size()) throw Refuse("'\\' at the end");
    const char c = pattern_[position_ + 1];
    switch (c) {
      case 's':
        return Replace("\\p{White_Space}");
      case 'S':
        return Replace("\\P{White_Space}");
      case 'd':
      case 'D':
        AppendCategory("Nd", /*negated=*/c == 'D', in_class);
        position_ += 2;
        return;
      case 'w': {
        const std::string word = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}" + NewerMembersOf("L") +
                                 NewerMembersOf("M") + NewerMembersOf("Nd") + NewerMembersOf("Pc");
        return Replace(in_class ? word : "[" + word + "]");
      }
      case 'v':
        return Replace("\\x0b");
      case 'r':
      case 'n':
      case 't':
      case 'f':
        return Copy(2);
      case 'p':
      case 'P':
        return TranslateProperty(in_class);
      case 'u':
        return TranslateCodePoint();
      default:
        if (IsAsciiLetterOrDigit(c)) throw Refuse(std::string("\\") + c);
        return Copy(2);
    }
  }

  void Replace(const std::string& text) {
    out_ += text;
    position_ += 2;
  }

  void TranslateProperty(bool in_class) {
    const size_t close = pattern_.find('}', position_);
    if (close == std::string_view::npos || pattern_[position_ + 2] != '{') {
      throw Refuse("a property without braces");
    }
    const std::string name(pattern_.substr(position_ + 3, close - position_ - 3));
    const bool is_category = std::ranges::find(kCategories, name) != kCategories.end();
    const bool is_script = std::ranges::find(kScripts, name) != kScripts.end();
    if (!is_category && !is_script) throw Refuse("the property " + name);
    const bool is_case = name == "Lu" || name == "Ll" || name == "Lt";
    if (is_case && IgnoresCase()) throw Refuse("the property " + name + " under (?i:)");
    const bool negated = pattern_[position_ + 1] == 'P';
    if (is_script) {
      out_ += (negated ? "\\P{sc:" : "\\p{sc:") + name + "}";
    } else {
      AppendCategory(name, negated, in_class);
    }
    position_ = close + 1;
  }

  void AppendCategory(const std::string& name, bool negated, bool in_class) {
    const std::string newer = NewerMembersOf(name);
    if (newer.empty()) {
      out_ += (negated ? "\\P{" : "\\p{") + name + "}";
      return;
    }
    if (in_class && negated) throw Refuse("the complement of " + name + " in a class");
    const std::string members = "\\p{" + name + "}" + newer;
    out_ += in_class ? members : (negated ? "[^" : "[") + members + "]";
  }

  // Handles \uHHHH.
  void TranslateCodePoint() {
    const std::string_view digits = pattern_.substr(std::min(position_ + 2, pattern_.size()), 4);
    const bool hex =
        digits.size() == 4 && digits.find_first_not_of("0123456789abcdefABCDEF") == digits.npos;
    if (!hex) throw Refuse("\\u without four hexadecimal digits");
    out_ += "\\x{" + std::string(digits) + "}";
    position_ += 6;
  }

  std::string_view pattern_;
  size_t position_ = 0;
  std::string out_;
  // One entry for each open group.
  std::vector<bool> group_ignores_case_;
};

}  // namespace

std::string Pcre2FromOniguruma(std::string_view pattern) {
  if (pattern.size() > kMaxPatternSize) {
    throw Error(ErrorCode::kUnsupported, "split pattern: " + std::to_string(pattern.size()) +
                                             " bytes are too long; the limit is " +
                                             std::to_string(kMaxPatternSize));
  }
  return Translator(pattern).Run();
}

}  // namespace sluice
