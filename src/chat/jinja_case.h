#pragma once

#include <string>
#include <string_view>

namespace sluice::jinja {

// Letter case as Python's str has it: Unicode's full mappings ("ß" is "SS" in upper case, a sigma
// that ends a word has its own form). Well-formed UTF-8 in and out.
std::string ToUpper(std::string_view text);
std::string ToLower(std::string_view text);
std::string Capitalize(std::string_view text);
std::string ToTitle(std::string_view text);
std::string SwapCase(std::string_view text);
std::string CaseFold(std::string_view text);

}  // namespace sluice::jinja
