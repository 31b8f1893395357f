#include "tokenizer/utf8.h"

#include <utf8proc.h>

#include "tokenizer/unicode_versions.h"

namespace sluice {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

size_t AsciiPrefix(std::string_view bytes) {
  size_t i = 0;
  while (i < bytes.size() && static_cast<uint8_t>(bytes[i]) < 0x80) ++i;
  return i;
}

}  // namespace

void Utf8Repairer::Push(std::string_view bytes, std::string* out) {
  for (size_t i = 0; i < bytes.size();) {
    if (held_size_ == 0) {
      const size_t ascii = AsciiPrefix(bytes.substr(i));
      out->append(bytes, i, ascii);
      i += ascii;
      if (i == bytes.size()) return;
    }
    PushByte(static_cast<uint8_t>(bytes[i++]), out);
  }
}

void Utf8Repairer::PushByte(uint8_t byte, std::string* out) {
  if (held_size_ == 0) return StartSequence(byte, out);
  if (byte < next_low_ || byte > next_high_) {
    // The sequence so far is one maximal subpart; the byte may start another.
    Finish(out);
    return StartSequence(byte, out);
  }
  held_[held_size_++] = static_cast<char>(byte);
  next_low_ = 0x80;
  next_high_ = 0xBF;
  if (held_size_ < expected_size_) return;
  out->append(held_.data(), held_size_);
  held_size_ = 0;
}

// Unicode 15, table 3-7, "Well-Formed UTF-8 Byte Sequences".
void Utf8Repairer::StartSequence(uint8_t byte, std::string* out) {
  if (byte < 0x80) {
    out->push_back(static_cast<char>(byte));
    return;
  }
  if (byte < 0xC2 || byte > 0xF4) {
    out->append(kReplacement);
    return;
  }
  expected_size_ = byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
  next_low_ = byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;
  next_high_ = byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF;
  held_[0] = static_cast<char>(byte);
  held_size_ = 1;
}

void Utf8Repairer::Finish(std::string* out) {
  if (held_size_ > 0) out->append(kReplacement);
  held_size_ = 0;
}

std::string RepairUtf8(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  Utf8Repairer repairer;
  repairer.Push(bytes, &text);
  repairer.Finish(&text);
  return text;
}

char32_t NextCodePoint(std::string_view text, size_t* position) {
  utf8proc_int32_t code_point = 0;
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + *position;
  const auto size =
      utf8proc_iterate(bytes, static_cast<utf8proc_ssize_t>(text.size() - *position), &code_point);
  *position += static_cast<size_t>(size > 0 ? size : 1);
  return size > 0 ? static_cast<char32_t>(code_point) : U'\uFFFD';
}

char32_t PreviousCodePoint(std::string_view text, size_t* position) {
  size_t start = *position - 1;
  while (start > 0 && (static_cast<uint8_t>(text[start]) & 0xC0) == 0x80) --start;
  *position = start;
  size_t end = start;
  return NextCodePoint(text, &end);
}

void AppendUtf8(char32_t code_point, std::string* out) {
  utf8proc_uint8_t bytes[4];
  const auto size = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code_point), bytes);
  out->append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(size));
}

bool IsWhiteSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool IsWordCharacter(char32_t c) {
  // Other_Alphabetic outside the marks: circled, squared and negative letters.
  if ((c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
      (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189)) {
    return true;
  }
  if (c == 0x200C || c == 0x200D) return true;
  if (IsNewerMemberOf({"L", "M", "Nd", "Nl", "Pc"}, c)) return true;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

bool IsNumeric(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return true;
    default:
      return IsNewerNumeric(c);
  }
}

bool IsPunctuation(char32_t c) {
  if (c < 0x80) {
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
           (c >= '{' && c <= '~');
  }
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO:
      return !IsNewerPunctuation(c);
    default:
      return IsFormerPunctuation(c);
  }
}

}  // namespace sluice
