// The filters that make text.

#include <algorithm>
#include <array>

#include "chat/jinja_case.h"
#include "chat/jinja_filter_table.h"
#include "chat/jinja_format.h"
#include "chat/jinja_json.h"
#include "chat/jinja_operators.h"
#include "chat/jinja_text.h"
#include "tokenizer/utf8.h"

namespace sluice::jinja {
namespace {

Value Trim(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("trim", {"chars"});
  const std::string text = ToText(input, budget);
  const Value* chars = arguments.Find(0, "chars");
  if (chars != nullptr && !chars->IsNone()) {
    budget->Step(text.size() / 16);
    return Value::String(StripAnyOf(text, arguments.Text(0, "chars"), true, true));
  }
  return Value::String(std::string(StripRight(StripLeft(text))));
}

template <auto kMap>
Value MapText(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("a filter of case", {});
  return Value::String(kMap(ToText(input, budget)));
}

// Upper case behind blanks, "-" and opening brackets, lower case elsewhere.
std::string TitleWords(const std::string& text) {
  std::string result;
  std::string word;
  const auto end_word = [&] {
    size_t first = 0;
    if (!word.empty()) NextCodePoint(word, &first);
    result += ToUpper(std::string_view(word).substr(0, first));
    result += ToLower(std::string_view(word).substr(first));
    word.clear();
  };
  for (size_t i = 0; i < text.size();) {
    const char32_t c = NextCodePoint(text, &i);
    const bool separates =
        IsPythonSpace(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
    if (separates) end_word();
    AppendUtf8(c, separates ? &result : &word);
  }
  end_word();
  return result;
}

Value ToStringFilter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("string", {});
  return input.IsString() ? input : Value::String(ToText(input, budget));
}

// The separators of json.dumps: between items and behind a key.
void ReadSeparators(const Value& given, JsonStyle* style) {
  const List* pair = given.IfList();
  const bool fits = pair && pair->IsSequence() && pair->items.size() == 2 &&
                    pair->items[0].IsString() && pair->items[1].IsString();
  if (!fits) throw Failure("tojson needs two strings as separators");
  style->item_separator = pair->items[0].Text();
  style->key_separator = pair->items[1].Text();
}

Value ToJsonFilter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("tojson", {"ensure_ascii", "indent", "separators", "sort_keys"});
  constexpr int64_t kMaxIndent = 64;
  JsonStyle style{.ascii = IsTrue(arguments.Get(0, "ensure_ascii", Value::Bool(false))),
                  .sort_keys = IsTrue(arguments.Get(3, "sort_keys", Value::Bool(false)))};
  const Value indent = arguments.Get(1, "indent", Value());
  if (indent.IsString()) {
    style.indent = indent.Text();
  } else if (!indent.IsNone()) {
    const int64_t width = std::max<int64_t>(arguments.Integer(1, "indent", 0), 0);
    if (width > kMaxIndent) throw Failure("tojson with an indent over 64");
    style.indent = std::string(static_cast<size_t>(width), ' ');
  }
  if (style.indent) style.item_separator = ",";
  const Value separators = arguments.Get(2, "separators", Value());
  if (!separators.IsNone()) ReadSeparators(separators, &style);
  return Value::String(ToJson(input, style, budget));
}

Value Replace(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("replace", {"old", "new", "count"});
  const std::string text = ToText(input, budget);
  const Value* from = arguments.Find(0, "old");
  const Value* to = arguments.Find(1, "new");
  if (from == nullptr || to == nullptr)
    throw Failure("replace needs what to replace and with what");
  return Value::String(ReplaceWithin(text, ToText(*from, budget), ToText(*to, budget),
                                     arguments.Integer(2, "count", -1), budget));
}

Value Indent(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("indent", {"width", "first", "blank"});
  constexpr int64_t kMaxWidth = 1000;
  const Value width = arguments.Get(0, "width", Value::Int(4));
  const bool first = IsTrue(arguments.Get(1, "first", Value::Bool(false)));
  const bool blank = IsTrue(arguments.Get(2, "blank", Value::Bool(false)));
  if (!input.IsString()) throw Failure(std::string("indent needs a str, not ") + input.TypeName());
  std::string pad;
  if (width.IsString()) {
    pad = width.Text();
  } else {
    const int64_t spaces = std::max<int64_t>(arguments.RequiredInteger(0, "width", 4), 0);
    if (spaces > kMaxWidth) throw Failure("indent with a width over 1000");
    pad.assign(static_cast<size_t>(spaces), ' ');
  }
  std::string result = first ? pad : "";
  bool at_first = true;
  for (const std::string& line : LinesOf(input.Text() + "\n", /*keep_ends=*/false)) {
    budget->Bytes(pad.size() + line.size());
    if (!at_first) result += "\n";
    if (!at_first && (blank || !line.empty())) result += pad;
    result += line;
    at_first = false;
  }
  return Value::String(std::move(result));
}

Value Same(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("safe", {});
  return Value::String(ToText(input, budget));
}

Value Escape(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("escape", {});
  const std::string text = ToText(input, budget);
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '\'':
        result += "&#39;";
        break;
      case '"':
        result += "&#34;";
        break;
      default:
        result.push_back(c);
    }
  }
  budget->Bytes(result.size());
  return Value::String(std::move(result));
}

Value Format(const Value& input, const Arguments& arguments, Budget* budget) {
  if (!arguments.positional.empty() && !arguments.named.empty()) {
    throw Failure("format takes positional or named arguments, not both");
  }
  const std::string text = ToText(input, budget);
  if (arguments.named.empty()) {
    return Value::String(
        PercentFormat(text, Value::Of(arguments.positional, List::Form::kTuple), budget));
  }
  Dict dict;
  for (const auto& [name, value] : arguments.named) dict.Set(Value::String(name), value);
  return Value::String(PercentFormat(text, Value::Of(std::move(dict)), budget));
}

Value Center(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("center", {"width"});
  const int64_t width = arguments.RequiredInteger(0, "width", 80);
  return Value::String(PadText(ToText(input, budget), width, U' ', Side::kBoth, budget));
}

Value Truncate(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("truncate", {"length", "killwords", "end", "leeway"});
  const int64_t length = arguments.RequiredInteger(0, "length", 255);
  const bool kills_words = IsTrue(arguments.Get(1, "killwords", Value::Bool(false)));
  const Value end = arguments.Get(2, "end", Value::String("..."));
  const int64_t leeway = arguments.Integer(3, "leeway", 5);
  const int64_t end_size = SizeOf(end);
  if (length < end_size || leeway < 0) throw Failure("truncate to less than its end");
  if (SizeOf(input) - leeway <= length) return input;
  if (!input.IsString() || !end.IsString()) throw Failure("truncate needs a str");
  const std::string& text = input.Text();
  budget->Bytes(text.size());
  size_t cut = 0;
  for (int64_t i = 0; i < length - end_size; ++i) NextCodePoint(text, &cut);
  std::string kept = text.substr(0, cut);
  if (!kills_words) kept = kept.substr(0, kept.rfind(' '));
  return Value::String(kept + end.Text());
}

Value WordCount(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("wordcount", {});
  const std::string text = ToText(input, budget);
  int64_t words = 0;
  bool inside = false;
  for (size_t i = 0; i < text.size();) {
    const char32_t c = NextCodePoint(text, &i);
    const bool is_word = c == '_' || IsAlphabetic(c) || IsNumeric(c);
    if (is_word && !inside) ++words;
    inside = is_word;
  }
  return Value::Int(words);
}

std::string Quote(const Value& value, bool in_query, Budget* budget) {
  static constexpr std::string_view kSafe =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~";
  std::string result;
  for (const char c : ToText(value, budget)) {
    char code[4];
    if (kSafe.find(c) != kSafe.npos || (c == '/' && !in_query)) {
      result.push_back(c);
    } else if (c == ' ' && in_query) {
      result.push_back('+');
    } else {
      std::snprintf(code, sizeof(code), "%%%02X", static_cast<unsigned>(static_cast<uint8_t>(c)));
      result += code;
    }
  }
  budget->Bytes(result.size());
  return result;
}

Value UrlEncode(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.Check("urlencode", {});
  const bool has_items =
      !input.IsString() && (input.IsUndefined() || input.IfList() || input.IfDict() ||
                            input.If<std::shared_ptr<Generator>>());
  if (!has_items) return Value::String(Quote(input, /*in_query=*/false, budget));
  std::string result;
  const Value pairs = input.IfDict() ? DictItems(*input.IfDict(), budget) : input;
  for (const Value& item : ItemsOf(pairs, budget)) {
    const std::vector<Value> pair = ItemsOf(item, budget);
    if (pair.size() != 2) throw Failure("urlencode needs pairs");
    if (!result.empty()) result.push_back('&');
    result += Quote(pair[0], true, budget) + "=" + Quote(pair[1], true, budget);
  }
  return Value::String(std::move(result));
}

constexpr std::array<FilterEntry, 18> kFilters = {{
    {"trim", Trim},
    {"upper", MapText<ToUpper>},
    {"lower", MapText<ToLower>},
    {"capitalize", MapText<Capitalize>},
    {"title", MapText<TitleWords>},
    {"string", ToStringFilter},
    {"tojson", ToJsonFilter},
    {"replace", Replace},
    {"indent", Indent},
    {"safe", Same},
    {"escape", Escape},
    {"e", Escape},
    {"forceescape", Escape},
    {"format", Format},
    {"center", Center},
    {"truncate", Truncate},
    {"wordcount", WordCount},
    {"urlencode", UrlEncode},
}};

}  // namespace

std::span<const FilterEntry> TextFilters() {
  return kFilters;
}

}  // namespace sluice::jinja
