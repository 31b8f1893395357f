#pragma once

#include <boost/json/fwd.hpp>
#include <string>
#include <string_view>

namespace sluice {

// Where a pre-tokenizer writes a mark for a space that the text does not have: before every piece,
// before the first, or nowhere.
enum class PrependScheme { kAlways, kFirst, kNever };

// Spaces written as a character of their own, SentencePiece's U+2581: a pre_tokenizer and a decoder
// of tokenizer.json.
struct Metaspace {
  std::string replacement;  // one character
  PrependScheme prepend = PrependScheme::kAlways;
  bool split = true;

  // Throws Error(kDataLoss) for fields that are wrong or contradict each other.
  static Metaspace FromJson(const boost::json::object& object, const std::string& where);
};

}  // namespace sluice
