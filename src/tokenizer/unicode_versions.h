#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

namespace sluice {

// The `tokenizers` library has its own tables of Unicode: 16.0 in its split patterns, 9.0 in its
// normalisation, 17.0 for digits and 8.0 for punctuation. The distribution's PCRE2 (14.0) and
// utf8proc (15.0) differ by what is here.

// Returns what Unicode 15.0 to 16.0 added to a general category of one or two letters, written for
// the inside of a PCRE2 class. Empty when nothing was.
std::string NewerMembersOf(std::string_view category);

// Whether Unicode 15.0 to 16.0 added the code point to one of a list of categories of one or two
// letters.
bool IsNewerMemberOf(std::initializer_list<std::string_view> categories, char32_t code_point);

// Whether NFC takes the code point as an unknown one, which neither moves nor composes: it has a
// combining class or a composition only since Unicode 10.0.
bool IsUnknownToNfc(char32_t code_point);

// Whether Unicode 15.0 to 17.0 made the code point a number (N).
bool IsNewerNumeric(char32_t code_point);

// Whether Unicode 9.0 to 15.0 made the code point punctuation (P), or ended its being that.
bool IsNewerPunctuation(char32_t code_point);
bool IsFormerPunctuation(char32_t code_point);

}  // namespace sluice
