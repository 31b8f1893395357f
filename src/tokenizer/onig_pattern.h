#pragma once

#include <string>
#include <string_view>

namespace sluice {

// Rewrites a split pattern of tokenizer.json, which is written for Oniguruma with Ruby's syntax, so
// that PCRE2 (UTF, UCP) matches the same texts:
//   - \s is Unicode's White_Space; PCRE2's own also takes U+180E;
//   - \p{Han} is the Script property; PCRE2's own is Script_Extensions;
//   - categories have the members of Unicode 16;
//   - \w is Alphabetic, Mark, Nd or Pc; \v is one character;
//   - {n,m}+ repeats greedily in Ruby and possessively in PCRE2: refused, as is every construct
//     whose meaning differs and that no published tokenizer needs (anchors, nested classes, class
//     intersections, back references, unscoped flags, upper- or lower-case classes under (?i:)).
// Throws Error(kUnsupported) with the construct and its offset in the pattern.
std::string Pcre2FromOniguruma(std::string_view pattern);

}  // namespace sluice
