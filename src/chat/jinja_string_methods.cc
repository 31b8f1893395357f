// Python's methods of str.

#include <algorithm>
#include <array>

#include "chat/jinja_case.h"
#include "chat/jinja_format.h"
#include "chat/jinja_methods.h"
#include "chat/jinja_text.h"
#include "tokenizer/utf8.h"

namespace sluice::jinja {
namespace {

template <bool kLeft, bool kRight>
Value Strip(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.CheckPositional("strip", 0, 1);
  if (const Value* chars = arguments.Find(0, ""); chars != nullptr && !chars->IsNone()) {
    const std::string& characters = arguments.Text(0, "chars");
    budget->Step(self.Text().size() * characters.size() / 256);
    return Value::String(StripAnyOf(self.Text(), characters, kLeft, kRight));
  }
  std::string_view text = self.Text();
  if (kLeft) text = StripLeft(text);
  if (kRight) text = StripRight(text);
  return Value::String(std::string(text));
}

// Splits at runs of blanks.
std::vector<std::string> SplitAtBlanks(std::string_view text, int64_t limit) {
  std::vector<std::string> parts;
  size_t i = 0;
  while (true) {
    size_t begin = i;
    while (i < text.size() && IsPythonSpace(NextCodePoint(text, &i))) begin = i;
    if (begin == text.size()) return parts;
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
      parts.emplace_back(text.substr(begin));
      return parts;
    }
    size_t end = begin;
    for (i = begin; i < text.size() && !IsPythonSpace(NextCodePoint(text, &i));) end = i;
    parts.emplace_back(text.substr(begin, end - begin));
    i = end;
  }
}

std::vector<std::string> SplitAtBlanksFromRight(std::string_view text, int64_t limit) {
  std::vector<std::string> parts;
  size_t end = text.size();
  while (true) {
    for (size_t i = end; i > 0 && IsPythonSpace(PreviousCodePoint(text, &i));) end = i;
    if (end == 0) break;
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
      parts.emplace_back(text.substr(0, end));
      break;
    }
    size_t begin = end;
    for (size_t i = end; i > 0 && !IsPythonSpace(PreviousCodePoint(text, &i));) begin = i;
    parts.emplace_back(text.substr(begin, end - begin));
    end = begin;
  }
  std::ranges::reverse(parts);
  return parts;
}

std::vector<std::string> SplitAt(std::string_view text, std::string_view separator, int64_t limit) {
  std::vector<std::string> parts;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    const size_t at = text.find(separator);
    if (at == text.npos) break;
    parts.emplace_back(text.substr(0, at));
    text.remove_prefix(at + separator.size());
  }
  parts.emplace_back(text);
  return parts;
}

std::vector<std::string> SplitAtFromRight(std::string_view text, std::string_view separator,
                                          int64_t limit) {
  std::vector<std::string> parts;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    const size_t at = text.rfind(separator);
    if (at == text.npos) break;
    parts.emplace_back(text.substr(at + separator.size()));
    text = text.substr(0, at);
  }
  parts.emplace_back(text);
  std::ranges::reverse(parts);
  return parts;
}

Value ListOf(std::vector<std::string> parts, Budget* budget, List::Form form = List::Form::kList) {
  budget->Bytes(parts.size() * 2 * sizeof(Value));
  std::vector<Value> items;
  for (std::string& part : parts) items.push_back(Value::String(std::move(part)));
  return Value::Of(std::move(items), form);
}

template <bool kFromRight>
Value Split(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.Check("split", {"sep", "maxsplit"});
  const std::string& text = self.Text();
  // A part may be as short as a letter and its string object is larger.
  budget->Bytes(text.size() * 2);
  const int64_t limit = arguments.RequiredInteger(1, "maxsplit", -1);
  const Value* separator = arguments.Find(0, "sep");
  if (separator == nullptr || separator->IsNone()) {
    return ListOf(kFromRight ? SplitAtBlanksFromRight(text, limit) : SplitAtBlanks(text, limit),
                  budget);
  }
  const std::string& cut = arguments.Text(0, "sep");
  if (cut.empty()) throw Failure("empty separator");
  return ListOf(kFromRight ? SplitAtFromRight(text, cut, limit) : SplitAt(text, cut, limit),
                budget);
}

template <bool kFromRight>
Value Partition(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.CheckPositional("partition", 1, 1);
  const std::string& text = self.Text();
  const std::string& cut = arguments.Text(0, "sep");
  if (cut.empty()) throw Failure("empty separator");
  budget->Bytes(text.size());
  const size_t at = kFromRight ? text.rfind(cut) : text.find(cut);
  std::vector<std::string> parts;
  if (at != text.npos) {
    parts = {text.substr(0, at), cut, text.substr(at + cut.size())};
  } else if (kFromRight) {
    parts = {"", "", text};
  } else {
    parts = {text, "", ""};
  }
  return ListOf(std::move(parts), budget, List::Form::kTuple);
}

// A part of a string by code points, as text[start:stop] takes it.
struct Window {
  std::string_view text;
  int64_t begin = 0;    // code points before it
  bool inside = false;  // whether it begins within the string
};

// The window that the arguments from `first` on name.
Window WindowOf(const Value& self, const Arguments& arguments, size_t first) {
  const std::string_view text = self.Text();
  const auto size = static_cast<int64_t>(LengthOf(text));
  const int64_t start = arguments.Integer(first, "start", 0);
  const int64_t stop = arguments.Integer(first + 1, "end", size);
  const auto clip = [&](int64_t index) {
    return index < 0 ? std::max<int64_t>(index < -size ? 0 : index + size, 0) : index;
  };
  const int64_t begin = clip(start);
  const int64_t end = std::min(clip(stop), size);
  if (begin > end) return {.text = {}, .begin = begin, .inside = false};
  size_t from = 0;
  for (int64_t i = 0; i < begin; ++i) NextCodePoint(text, &from);
  size_t to = from;
  for (int64_t i = begin; i < end; ++i) NextCodePoint(text, &to);
  return {.text = text.substr(from, to - from), .begin = begin, .inside = true};
}

template <bool kAtStart>
Value HasAffix(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.CheckPositional(kAtStart ? "startswith" : "endswith", 1, 3);
  const Window window = WindowOf(self, arguments, 1);
  const auto has = [&](const Value& affix) {
    if (!affix.IsString()) {
      throw Failure(std::string(kAtStart ? "startswith" : "endswith") +
                    " needs a str or a tuple of str, not a " + affix.TypeName());
    }
    budget->Step();
    return window.inside &&
           (kAtStart ? window.text.starts_with(affix.Text()) : window.text.ends_with(affix.Text()));
  };
  const Value& affix = arguments.positional[0];
  if (affix.IfList() == nullptr || !affix.IfList()->IsTuple()) return Value::Bool(has(affix));
  return Value::Bool(std::ranges::any_of(affix.IfList()->items, has));
}

int64_t Find(const Value& self, const Arguments& arguments, bool from_right) {
  arguments.CheckPositional("find", 1, 3);
  const std::string& sub = arguments.Text(0, "sub");
  const Window window = WindowOf(self, arguments, 1);
  if (!window.inside) return -1;
  const size_t at = from_right ? window.text.rfind(sub) : window.text.find(sub);
  if (at == window.text.npos) return -1;
  return window.begin + static_cast<int64_t>(LengthOf(window.text.substr(0, at)));
}

template <bool kFromRight>
Value FindMethodOf(const Value& self, const Arguments& arguments, Budget*) {
  return Value::Int(Find(self, arguments, kFromRight));
}

template <bool kFromRight>
Value Index(const Value& self, const Arguments& arguments, Budget*) {
  const int64_t at = Find(self, arguments, kFromRight);
  if (at < 0) throw Failure("substring not found");
  return Value::Int(at);
}

Value Count(const Value& self, const Arguments& arguments, Budget*) {
  arguments.CheckPositional("count", 1, 3);
  const std::string& sub = arguments.Text(0, "sub");
  const Window window = WindowOf(self, arguments, 1);
  if (!window.inside) return Value::Int(0);
  if (sub.empty()) return Value::Int(static_cast<int64_t>(LengthOf(window.text)) + 1);
  int64_t count = 0;
  for (size_t at = window.text.find(sub); at != window.text.npos;
       at = window.text.find(sub, at + sub.size())) {
    ++count;
  }
  return Value::Int(count);
}

Value Replace(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.CheckPositional("replace", 2, 3);
  return Value::String(ReplaceWithin(self.Text(), arguments.Text(0, "old"),
                                     arguments.Text(1, "new"),
                                     arguments.RequiredInteger(2, "count", -1), budget));
}

Value Join(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.CheckPositional("join", 1, 1);
  std::string text;
  bool first = true;
  for (const Value& item : ItemsOf(arguments.positional[0], budget)) {
    if (!item.IsString()) throw Failure(std::string("join needs str, not ") + item.TypeName());
    budget->Bytes(item.Text().size() + self.Text().size());
    if (!std::exchange(first, false)) text += self.Text();
    text += item.Text();
  }
  return Value::String(std::move(text));
}

Value SplitLines(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.Check("splitlines", {"keepends"});
  budget->Bytes(self.Text().size() * 2);
  const bool keep_ends = IsTrue(arguments.Get(0, "keepends", Value::Bool(false)));
  return ListOf(LinesOf(self.Text(), keep_ends), budget);
}

// Drops the prefix or suffix where it is there.
template <bool kAtStart>
Value RemoveAffix(const Value& self, const Arguments& arguments, Budget*) {
  arguments.CheckPositional("removeprefix or removesuffix", 1, 1);
  const std::string& affix = arguments.Text(0, "affix");
  const std::string& text = self.Text();
  if (!(kAtStart ? text.starts_with(affix) : text.ends_with(affix))) return self;
  return Value::String(text.substr(kAtStart ? affix.size() : 0, text.size() - affix.size()));
}

template <auto kMap>
Value MapText(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.CheckPositional("a method of case", 0, 0);
  // A code point may take one byte more in the other case, or two.
  budget->Bytes(self.Text().size() * 2);
  return Value::String(kMap(self.Text()));
}

template <Side kSide>
Value Pad(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.CheckPositional("a method that pads", 1, 2);
  const Value fill = arguments.Get(1, "", Value::String(" "));
  if (!fill.IsString() || LengthOf(fill.Text()) != 1) throw Failure("padding needs one character");
  size_t ignored = 0;
  return Value::String(PadText(self.Text(), arguments.RequiredInteger(0, "width"),
                               NextCodePoint(fill.Text(), &ignored), kSide, budget));
}

Value FillZeros(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.CheckPositional("zfill", 1, 1);
  const std::string& text = self.Text();
  const int64_t width = arguments.RequiredInteger(0, "width");
  const bool has_sign = text.starts_with('-') || text.starts_with('+');
  if (!has_sign) return Value::String(PadText(text, width, U'0', Side::kLeft, budget));
  return Value::String(text.substr(0, 1) + PadText(text.substr(1), std::max<int64_t>(width, 1) - 1,
                                                   U'0', Side::kLeft, budget));
}

Value ExpandTabs(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.Check("expandtabs", {"tabsize"});
  const int64_t size = arguments.RequiredInteger(0, "tabsize", 8);
  std::string result;
  int64_t column = 0;
  const std::string& text = self.Text();
  for (size_t i = 0; i < text.size();) {
    const char32_t c = NextCodePoint(text, &i);
    if (c != '\t') {
      AppendUtf8(c, &result);
      column = c == '\n' || c == '\r' ? 0 : column + 1;
    } else if (size > 0) {
      const int64_t blanks = size - column % size;
      budget->Bytes(static_cast<uint64_t>(blanks));
      result.append(static_cast<size_t>(blanks), ' ');
      column += blanks;
    }
  }
  return Value::String(std::move(result));
}

// Whether there is a character and the predicate holds for all.
template <auto kPredicate, bool kOfEmpty = false>
Value IsAll(const Value& self, const Arguments& arguments, Budget*) {
  arguments.CheckPositional("a question of characters", 0, 0);
  const std::string& text = self.Text();
  if (text.empty()) return Value::Bool(kOfEmpty);
  for (size_t i = 0; i < text.size();) {
    if (!kPredicate(NextCodePoint(text, &i))) return Value::Bool(false);
  }
  return Value::Bool(true);
}

bool IsAlphanumeric(char32_t c) {
  return IsAlphabetic(c) || IsNumeric(c);
}
bool IsAsciiCharacter(char32_t c) {
  return c < 0x80;
}

template <auto kPredicate>
Value IsCased(const Value& self, const Arguments& arguments, Budget*) {
  arguments.CheckPositional("islower or isupper", 0, 0);
  return Value::Bool(AllCased(self.Text(), kPredicate));
}

Value IsTitle(const Value& self, const Arguments& arguments, Budget*) {
  arguments.CheckPositional("istitle", 0, 0);
  const bool has_case = self.Text() != SwapCase(self.Text());
  return Value::Bool(has_case && ToTitle(self.Text()) == self.Text());
}

Value IsIdentifier(const Value& self, const Arguments& arguments, Budget*) {
  arguments.CheckPositional("isidentifier", 0, 0);
  const std::string& text = self.Text();
  for (size_t i = 0; i < text.size();) {
    const bool first = i == 0;
    const char32_t c = NextCodePoint(text, &i);
    if (c != '_' && !IsAlphabetic(c) && (first || !IsDecimal(c))) return Value::Bool(false);
  }
  return Value::Bool(!text.empty());
}

Value Format(const Value& self, const Arguments& arguments, Budget* budget) {
  return Value::String(FormatText(self.Text(), arguments, budget));
}

constexpr std::array<MethodEntry, 43> kMethods = {{
    {"strip", Strip<true, true>},
    {"lstrip", Strip<true, false>},
    {"rstrip", Strip<false, true>},
    {"split", Split<false>},
    {"rsplit", Split<true>},
    {"splitlines", SplitLines},
    {"partition", Partition<false>},
    {"rpartition", Partition<true>},
    {"startswith", HasAffix<true>},
    {"endswith", HasAffix<false>},
    {"removeprefix", RemoveAffix<true>},
    {"removesuffix", RemoveAffix<false>},
    {"upper", MapText<ToUpper>},
    {"lower", MapText<ToLower>},
    {"casefold", MapText<CaseFold>},
    {"capitalize", MapText<Capitalize>},
    {"title", MapText<ToTitle>},
    {"swapcase", MapText<SwapCase>},
    {"replace", Replace},
    {"find", FindMethodOf<false>},
    {"rfind", FindMethodOf<true>},
    {"index", Index<false>},
    {"rindex", Index<true>},
    {"count", Count},
    {"join", Join},
    {"format", Format},
    {"center", Pad<Side::kBoth>},
    {"ljust", Pad<Side::kRight>},
    {"rjust", Pad<Side::kLeft>},
    {"zfill", FillZeros},
    {"expandtabs", ExpandTabs},
    {"isalnum", IsAll<IsAlphanumeric>},
    {"isalpha", IsAll<IsAlphabetic>},
    {"isascii", IsAll<IsAsciiCharacter, true>},
    {"isdecimal", IsAll<IsDecimal>},
    {"isdigit", IsAll<IsDigit>},
    {"isnumeric", IsAll<IsNumeric>},
    {"isprintable", IsAll<IsPrintable, true>},
    {"isspace", IsAll<IsPythonSpace>},
    {"islower", IsCased<IsLower>},
    {"isupper", IsCased<IsUpper>},
    {"istitle", IsTitle},
    {"isidentifier", IsIdentifier},
}};

}  // namespace

std::span<const MethodEntry> StringMethods() {
  return kMethods;
}

}  // namespace sluice::jinja
