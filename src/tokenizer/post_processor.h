#pragma once

#include <boost/json/fwd.hpp>
#include <vector>

#include "tokenizer/token_id.h"

namespace sluice {

// The ids that the "post_processor" of tokenizer.json puts around a single sequence.
struct PostProcessor {
  std::vector<TokenId> prefix;
  std::vector<TokenId> suffix;

  // ByteLevel (which moves offsets only), TemplateProcessing, or a Sequence of those. Throws
  // Error(kUnsupported) naming any other kind, Error(kDataLoss) for a template without its parts.
  static PostProcessor FromJson(const boost::json::value* json);
};

}  // namespace sluice
