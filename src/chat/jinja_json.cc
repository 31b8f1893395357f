#include "chat/jinja_json.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>

#include "chat/jinja_arguments.h"
#include "chat/jinja_text.h"
#include "tokenizer/utf8.h"

namespace sluice::jinja {
namespace {

class Writer {
 public:
  Writer(const JsonStyle& style, Budget* budget) : style_(style), budget_(budget) {}

  std::string Run(const Value& value) {
    Write(value, 0);
    return std::move(out_);
  }

 private:
  void Write(const Value& value, int level) {
    const size_t before = out_.size();
    const List* list = value.IfList();
    if (list && (list->form == List::Form::kList || list->IsTuple())) {
      return WriteList(*list, level);
    }
    if (const Dict* dict = value.IfDict()) return WriteDict(*dict, level);
    if (value.IsString()) {
      WriteString(value.Text());
    } else if (value.IsNone()) {
      out_ += "null";
    } else if (const bool* flag = value.If<bool>()) {
      out_ += *flag ? "true" : "false";
    } else if (const int64_t* integer = value.If<int64_t>()) {
      out_ += std::to_string(*integer);
    } else if (const double* number = value.If<double>()) {
      out_ += NumberText(*number);
    } else {
      throw Failure(std::string("tojson cannot write a ") + value.TypeName());
    }
    budget_->Bytes(out_.size() - before);
    budget_->Step();
  }

  static std::string NumberText(double number) {
    if (std::isnan(number)) return "NaN";
    if (std::isinf(number)) return number < 0 ? "-Infinity" : "Infinity";
    return FloatRepr(number);
  }

  void WriteList(const List& list, int level) {
    out_.push_back('[');
    for (size_t i = 0; i < list.items.size(); ++i) {
      Separate(i == 0, level + 1);
      Write(list.items[i], level + 1);
    }
    if (!list.items.empty()) BreakLine(level);
    out_.push_back(']');
  }

  void WriteDict(const Dict& dict, int level) {
    std::vector<std::pair<std::string, const Value*>> entries;
    for (const auto& [key, value] : dict.entries) entries.emplace_back(KeyText(key), &value);
    if (style_.sort_keys) SortByKey(dict, &entries);
    out_.push_back('{');
    for (size_t i = 0; i < entries.size(); ++i) {
      Separate(i == 0, level + 1);
      WriteString(entries[i].first);
      out_ += style_.key_separator;
      Write(*entries[i].second, level + 1);
    }
    if (!entries.empty()) BreakLine(level);
    out_.push_back('}');
  }

  // Python sorts the keys themselves, which must go together.
  void SortByKey(const Dict& dict, std::vector<std::pair<std::string, const Value*>>* entries) {
    if (!std::ranges::all_of(dict.entries, [](const auto& e) { return e.first.IsString(); })) {
      throw Error(ErrorCode::kUnsupported,
                  "chat template: tojson with sort_keys needs keys of str");
    }
    std::ranges::sort(*entries, {}, [](const auto& entry) { return entry.first; });
  }

  std::string KeyText(const Value& key) const {
    if (key.IsString()) return key.Text();
    if (!IsNumber(key) && !key.IsNone()) {
      throw Failure(std::string("tojson cannot write a ") + key.TypeName() + " as key");
    }
    if (key.IsNone()) return "null";
    if (const bool* flag = key.If<bool>()) return *flag ? "true" : "false";
    if (const double* number = key.If<double>()) return NumberText(*number);
    return ToText(key, budget_);
  }

  void Separate(bool first, int level) {
    if (!first) out_ += style_.item_separator;
    BreakLine(level);
  }

  void BreakLine(int level) {
    if (!style_.indent) return;
    out_.push_back('\n');
    budget_->Bytes(static_cast<uint64_t>(level) * style_.indent->size());
    for (int i = 0; i < level; ++i) out_ += *style_.indent;
  }

  void WriteEscape(char32_t unit) {
    static constexpr char kDigits[] = "0123456789abcdef";
    out_ += "\\u";
    for (int shift = 12; shift >= 0; shift -= 4) out_.push_back(kDigits[(unit >> shift) & 15]);
  }

  void WriteString(std::string_view text) {
    out_.push_back('"');
    for (size_t i = 0; i < text.size();) {
      const char32_t c = NextCodePoint(text, &i);
      switch (c) {
        case '"':
          out_ += "\\\"";
          break;
        case '\\':
          out_ += "\\\\";
          break;
        case '\n':
          out_ += "\\n";
          break;
        case '\r':
          out_ += "\\r";
          break;
        case '\t':
          out_ += "\\t";
          break;
        case '\b':
          out_ += "\\b";
          break;
        case '\f':
          out_ += "\\f";
          break;
        default:
          WriteCharacter(c);
      }
    }
    out_.push_back('"');
  }

  void WriteCharacter(char32_t c) {
    if (c >= 0x20 && (c < 0x7F || !style_.ascii)) return AppendUtf8(c, &out_);
    if (c < 0x10000) return WriteEscape(c);
    WriteEscape(0xD800 + ((c - 0x10000) >> 10));
    WriteEscape(0xDC00 + ((c - 0x10000) & 0x3FF));
  }

  JsonStyle style_;
  Budget* budget_;
  std::string out_;
};

}  // namespace

Value FromJson(const boost::json::value& json) {
  switch (json.kind()) {
    case boost::json::kind::null:
      return Value();
    case boost::json::kind::bool_:
      return Value::Bool(json.get_bool());
    case boost::json::kind::int64:
      return Value::Int(json.get_int64());
    case boost::json::kind::uint64:
      return Value::Float(static_cast<double>(json.get_uint64()));
    case boost::json::kind::double_:
      return Value::Float(json.get_double());
    case boost::json::kind::string:
      return Value::String(std::string(json.get_string()));
    case boost::json::kind::array: {
      std::vector<Value> items;
      for (const auto& item : json.get_array()) items.push_back(FromJson(item));
      return Value::Of(std::move(items));
    }
    case boost::json::kind::object:
      break;
  }
  Dict dict;
  for (const auto& [key, value] : json.get_object()) {
    dict.entries.emplace_back(Value::String(std::string(key)), FromJson(value));
  }
  return Value::Of(std::move(dict));
}

std::string ToJson(const Value& value, const JsonStyle& style, Budget* budget) {
  return Writer(style, budget).Run(value);
}

}  // namespace sluice::jinja
