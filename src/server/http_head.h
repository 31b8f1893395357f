#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace sluice {

// Finds the end of a request's head (its request line and fields) in bytes that come in pieces.
// What a second reader on the way could take for the end of a line or of a request is refused
// before anything is parsed: a request that two programs read as two different ones is how a
// proxy's rules are walked around.
class HeadScanner {
 public:
  explicit HeadScanner(size_t max_bytes) : max_bytes_(max_bytes) {}

  // `input` holds all bytes since the head's first, a few more each time. The length of the head,
  // its empty line included, once that is there. Throws ApiError: 400 for a control character, a
  // line that does not end in CR LF, or one that continues the line before; 414 or 431 when the
  // request line alone, or the head, is longer than `max_bytes`.
  std::optional<size_t> Scan(std::string_view input);

 private:
  void CheckByte(std::string_view input) const;

  const size_t max_bytes_;
  size_t scanned_ = 0;
  size_t line_begin_ = 0;
};

}  // namespace sluice
