#pragma once

#include <boost/json/fwd.hpp>
#include <memory>
#include <string>
#include <string_view>

namespace sluice {

// Rewrites text before it is split into words. Immutable; safe to call from any thread.
class Normalizer {
 public:
  virtual ~Normalizer() = default;
  // `text` is well-formed UTF-8, and so is the result.
  virtual std::string Normalize(std::string_view text) const = 0;
};

// Builds the "normalizer" of tokenizer.json: NFC or a Sequence of such. Returns null for none.
// Throws Error(kUnsupported) naming any other kind.
std::unique_ptr<Normalizer> NormalizerFromJson(const boost::json::value* json);

// Returns the text in normal form C of Unicode 9, as the `tokenizers` library has it, in time
// linear in its size but for the sorting of runs of combining marks.
std::string NormalizeNfc(std::string_view text);

}  // namespace sluice
