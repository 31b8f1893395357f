#pragma once

#include <boost/json/fwd.hpp>
#include <string>
#include <string_view>

#include "tokenizer/regex.h"

namespace sluice {

// The "pattern" of a component of tokenizer.json, {"String": text} or {"Regex": pattern}.
// Immutable; safe to call from any thread.
class TextPattern {
 public:
  // Throws Error(kDataLoss) for wrong types and an empty string, Error(kUnsupported) for a regular
  // expression that cannot be had from PCRE2.
  static TextPattern FromJson(const boost::json::value& json, const std::string& where);

  const Regex& regex() const { return regex_; }

  // Returns `text` with `content` for every match. Throws Error(kResourceExhausted) when the result
  // passes `max_size` bytes.
  std::string Replace(std::string_view text, std::string_view content, size_t max_size) const;

 private:
  TextPattern(std::string literal, Regex regex)
      : literal_(std::move(literal)), regex_(std::move(regex)) {}

  std::string literal_;  // empty for a regular expression
  Regex regex_;
};

}  // namespace sluice
