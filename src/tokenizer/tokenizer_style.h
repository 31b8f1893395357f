#pragma once

#include <string>
#include <string_view>

namespace sluice {

// What a tokenizer.json says that it is, for people: "BPE, byte level", "BPE, byte fallback". Looks
// at the names of its parts only. Empty for a text that is not of that form.
std::string TokenizerStyle(std::string_view tokenizer_json);

}  // namespace sluice
