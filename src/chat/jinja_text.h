#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "chat/jinja_value.h"

namespace sluice::jinja {

// Strings with Python's meaning: counted in code points, blank as str.isspace() says. Letter case
// is Unicode's simple mapping, so that no text changes its length ("ß" stays "ß" in upper case).

bool IsPythonSpace(char32_t code_point);
std::string StripLeft(std::string_view text);
std::string StripRight(std::string_view text);
// Strips any of the code points in `characters`.
std::string StripAnyOf(std::string_view text, std::string_view characters, bool left, bool right);

size_t LengthOf(std::string_view text);
// Each code point by itself.
std::vector<std::string> CharactersOf(std::string_view text);

std::string ToUpper(std::string_view text);
std::string ToLower(std::string_view text);
std::string Capitalize(std::string_view text);
std::string ToTitle(std::string_view text);
// Replaces at most `count` occurrences; a negative count means all.
std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to,
                       int64_t count);

// The value of a string literal's inside; nothing for a broken escape.
std::optional<std::string> Unescape(std::string_view text);

// Python's str() and repr(). Throws Error(kUnsupported) for what has no stable spelling.
std::string ToText(const Value& value);
std::string ToRepr(const Value& value);
std::string FloatRepr(double number);

}  // namespace sluice::jinja
