#pragma once

#include <boost/json/fwd.hpp>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

// Rewrites text before it is split into words, as the "normalizer" of tokenizer.json says.
// Immutable; safe to call from any thread.
class Normalizer {
 public:
  // One of NFC, Prepend and Replace; a Sequence is a list of them.
  class Step {
   public:
    virtual ~Step() = default;
    // `text` is well-formed UTF-8, and so is the result. Throws Error(kResourceExhausted) rather
    // than make more than `max_size` bytes.
    virtual std::string Apply(std::string_view text, size_t max_size) const = 0;
  };

  // Null or an empty Sequence leaves text as it is. Throws Error(kUnsupported) naming any other
  // kind.
  static Normalizer FromJson(const boost::json::value* json);

  bool is_identity() const { return steps_.empty(); }

  // Throws Error(kResourceExhausted) when the steps blow the text up out of all proportion.
  std::string Normalize(std::string_view text) const;

 private:
  std::vector<std::unique_ptr<Step>> steps_;
};

// Returns the text in normal form C of Unicode 9, as the `tokenizers` library has it, in time
// linear in its size but for the sorting of runs of combining marks.
std::string NormalizeNfc(std::string_view text);

}  // namespace sluice
