#pragma once

#include <boost/json/fwd.hpp>
#include <functional>
#include <memory>
#include <string_view>

namespace sluice {

// Cuts text into the words that the model encodes each on its own. Immutable; safe to call from any
// thread.
class PreTokenizer {
 public:
  // Gets each non-empty word in order. The view is valid during the call only.
  using Emit = std::function<void(std::string_view word)>;

  virtual ~PreTokenizer() = default;
  // `text` is well-formed UTF-8 and not empty.
  virtual void Split(std::string_view text, const Emit& emit) const = 0;
};

// Builds the "pre_tokenizer" of tokenizer.json: ByteLevel, or a Sequence of Splits that ends in
// ByteLevel. Throws Error(kUnsupported) naming anything else.
std::unique_ptr<PreTokenizer> PreTokenizerFromJson(const boost::json::value* json);

}  // namespace sluice
