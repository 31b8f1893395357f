#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace sluice {

// Turns a stream of bytes into UTF-8, piece by piece. Each maximal ill-formed subpart becomes one
// U+FFFD (Unicode 15, section 3.9, "U+FFFD Substitution of Maximal Subparts"), so the pieces
// concatenate to the same text however the bytes were cut. Not thread-safe; one per stream.
class Utf8Repairer {
 public:
  // Appends to `out` the text that `bytes` makes certain. Up to three bytes of an unfinished
  // sequence are held back.
  void Push(std::string_view bytes, std::string* out);

  // Ends the stream: an unfinished sequence becomes U+FFFD. The repairer can be used anew.
  void Finish(std::string* out);

 private:
  void PushByte(uint8_t byte, std::string* out);
  void StartSequence(uint8_t byte, std::string* out);

  std::array<char, 4> held_ = {};
  int held_size_ = 0;
  int expected_size_ = 0;
  // Range allowed for the next continuation byte; narrower than 80..BF after some lead bytes.
  uint8_t next_low_ = 0x80;
  uint8_t next_high_ = 0xBF;
};

// Returns `bytes` with ill-formed sequences replaced by U+FFFD.
std::string RepairUtf8(std::string_view bytes);

// Reads the code point at text[position] of well-formed UTF-8 and moves `position` past it.
char32_t NextCodePoint(std::string_view text, size_t* position);

// Reads the code point that ends at text[position - 1] of well-formed UTF-8 and moves `position` to
// its start.
char32_t PreviousCodePoint(std::string_view text, size_t* position);

void AppendUtf8(char32_t code_point, std::string* out);

// Unicode's White_Space property.
bool IsWhiteSpace(char32_t code_point);

// A word character as Unicode's UTS 18 defines \w: Alphabetic, Mark, Nd, Pc or Join_Control.
bool IsWordCharacter(char32_t code_point);

// General category N: Nd, Nl or No.
bool IsNumeric(char32_t code_point);

// ASCII punctuation and symbols, and general category P.
bool IsPunctuation(char32_t code_point);

}  // namespace sluice
