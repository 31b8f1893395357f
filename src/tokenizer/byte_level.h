#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace sluice {

// Byte-level vocabularies spell each byte as one printable character: bytes that are printable in
// Latin-1 stand for themselves, the other 68 are U+0100, U+0101, ... in byte order (GPT-2).

// Returns the UTF-8 spelling of one byte.
std::string ByteLevelSymbol(unsigned char byte);

// Returns the bytes that `content` spells, or nothing when a character of it spells no byte.
std::optional<std::string> BytesOfSymbols(std::string_view content);

// Returns the bytes a token contributes to decoded text: what its content spells, or the content
// itself when that spells no bytes, as it is with many added tokens.
std::string ByteLevelTokenText(std::string_view content);

}  // namespace sluice
