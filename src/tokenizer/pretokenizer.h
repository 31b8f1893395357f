#pragma once

#include <boost/json/fwd.hpp>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/regex.h"
#include "tokenizer/split_behavior.h"

namespace sluice {

// Text and the words it is cut into, with scratch memory that serves one text after another.
struct WordList {
  std::string_view text;  // the caller's, or `buffer`
  std::vector<TextSpan> words;
  // Whether the text stands at the very start of what is encoded.
  bool at_start = false;

  // Scratch of the steps.
  std::vector<TextSpan> next_words;
  std::string buffer;
  std::string next_buffer;
  RegexScan scan;
};

// Cuts text into the words that the model encodes each on its own, as the "pre_tokenizer" of
// tokenizer.json says. Immutable; safe to call from any thread.
class PreTokenizer {
 public:
  class Step {
   public:
    virtual ~Step() = default;
    // Cuts each word of the list further; may rewrite the text.
    virtual void Apply(WordList* list) const = 0;
  };

  // Null leaves text in one piece. Throws Error(kUnsupported) naming a kind that is not written
  // here.
  static PreTokenizer FromJson(const boost::json::value* json);

  // Whether the model reads the bytes of words (there is a ByteLevel) or their characters.
  bool is_byte_level() const { return is_byte_level_; }

  // Fills the list with the non-empty words of `text`, well-formed UTF-8 and not empty, which must
  // outlive the list's use.
  void Split(std::string_view text, bool at_start, WordList* list) const;

 private:
  void AppendSteps(const boost::json::value& json);

  std::vector<std::unique_ptr<Step>> steps_;
  bool is_byte_level_ = false;
};

}  // namespace sluice
