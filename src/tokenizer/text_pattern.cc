#include "tokenizer/text_pattern.h"

#include "tokenizer/json_fields.h"
#include "tokenizer/onig_pattern.h"

namespace sluice {
namespace {

// Calls `replace(begin, end)` for every match.
template <class Replace>
void ForEachMatch(const std::string& literal, const Regex& regex, std::string_view text,
                  const Replace& replace) {
  if (!literal.empty()) {
    for (size_t at = text.find(literal); at != text.npos;) {
      replace(at, at + literal.size());
      at = text.find(literal, at + literal.size());
    }
    return;
  }
  RegexScan scan;
  scan.Start(regex, text);
  while (const auto match = scan.Next()) replace(match->begin, match->end);
}

}  // namespace

TextPattern TextPattern::FromJson(const boost::json::value& json, const std::string& where) {
  const auto& object = RequireObject(json, where);
  if (const auto* regex = FindField(object, "Regex")) {
    const std::string_view pattern = RequireString(*regex, where + ".Regex");
    return TextPattern("", Regex::FromPattern(Pcre2FromOniguruma(pattern)));
  }
  std::string literal(RequireString(RequireField(object, "String", where), where + ".String"));
  if (literal.empty()) throw DataLoss(where + ".String is empty");
  Regex regex = Regex::FromLiteral(literal);
  return TextPattern(std::move(literal), std::move(regex));
}

std::string TextPattern::Replace(std::string_view text, std::string_view content,
                                 size_t max_size) const {
  std::string result;
  result.reserve(text.size());
  size_t done = 0;
  const auto append = [&](std::string_view part) {
    if (part.size() > max_size - result.size()) {
      throw Error(ErrorCode::kResourceExhausted, "tokenizer.json: a Replace makes a text of over " +
                                                     std::to_string(max_size) + " bytes");
    }
    result += part;
  };
  ForEachMatch(literal_, regex_, text, [&](size_t begin, size_t end) {
    append(text.substr(done, begin - done));
    append(content);
    done = end;
  });
  append(text.substr(done));
  return result;
}

}  // namespace sluice
