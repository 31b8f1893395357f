#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "chat/jinja_value.h"

namespace sluice::jinja {

// Strings with Python's meaning: counted in code points, blank as str.isspace() says.

bool IsPythonSpace(char32_t code_point);
// Parts of `text`.
std::string_view StripLeft(std::string_view text);
std::string_view StripRight(std::string_view text);
// Strips any of the code points in `characters`.
std::string StripAnyOf(std::string_view text, std::string_view characters, bool left, bool right);

size_t LengthOf(std::string_view text);
// Each code point by itself.
std::vector<std::string> CharactersOf(std::string_view text);

// Replaces at most `count` occurrences; a negative count means all.
std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to,
                       int64_t count);

// The same, charging what it makes.
std::string ReplaceWithin(std::string_view text, std::string_view from, std::string_view to,
                          int64_t count, Budget* budget);

// The lines of a text, cut where str.splitlines() cuts.
std::vector<std::string> LinesOf(std::string_view text, bool keep_ends);

// Pads to `width` code points; at both sides as str.center() does.
enum class Side { kLeft, kRight, kBoth };
std::string PadText(const std::string& text, int64_t width, char32_t fill, Side side,
                    Budget* budget);

// The value of a string literal's inside; nothing for a broken escape.
std::optional<std::string> Unescape(std::string_view text);

bool IsPrintable(char32_t code_point);
// str.isalpha() and the like, of one code point.
bool IsAlphabetic(char32_t code_point);
bool IsDecimal(char32_t code_point);
bool IsDigit(char32_t code_point);
bool IsNumeric(char32_t code_point);
bool IsUpper(char32_t code_point);
bool IsLower(char32_t code_point);
// Whether there is a letter with case, and the predicate holds for all of them.
bool AllCased(std::string_view text, bool (*predicate)(char32_t));

// Python's str() and repr(). Throws Error(kUnsupported) for what has no stable spelling.
std::string ToText(const Value& value, Budget* budget);
std::string ToRepr(const Value& value, Budget* budget);
std::string StringRepr(std::string_view text);
std::string FloatRepr(double number);

}  // namespace sluice::jinja
