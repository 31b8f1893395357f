#include "server/http_head.h"

#include <fmt/format.h>

#include "server/api_error.h"

namespace sluice {

void HeadScanner::CheckByte(std::string_view input) const {
  const char byte = input[scanned_];
  const bool after_return = scanned_ > 0 && input[scanned_ - 1] == '\r';
  if (after_return != (byte == '\n')) {
    throw ApiError(400, "malformed HTTP request: lines must end in CR LF");
  }
  const auto code = static_cast<unsigned char>(byte);
  const bool control =
      (code < 0x20 && byte != '\t' && byte != '\r' && byte != '\n') || code == 0x7f;
  if (control) {
    throw ApiError(400, fmt::format("malformed HTTP request: byte 0x{:02x} in its head", code));
  }
  const bool folded = scanned_ == line_begin_ && line_begin_ > 0 && (byte == ' ' || byte == '\t');
  if (folded) {
    throw ApiError(400, "malformed HTTP request: a field must stand on one line");
  }
}

std::optional<size_t> HeadScanner::Scan(std::string_view input) {
  for (; scanned_ < input.size(); ++scanned_) {
    if (scanned_ == max_bytes_) {
      const bool in_target = line_begin_ == 0;
      throw ApiError(in_target ? 414 : 431,
                     fmt::format("the request's {} longer than {} bytes",
                                 in_target ? "target is" : "head is", max_bytes_));
    }
    CheckByte(input);
    if (input[scanned_] != '\n') continue;
    const bool empty_line = scanned_ - line_begin_ == 1;
    line_begin_ = scanned_ + 1;
    if (empty_line) return line_begin_;
  }
  return std::nullopt;
}

}  // namespace sluice
