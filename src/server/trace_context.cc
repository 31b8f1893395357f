#include "server/trace_context.h"

#include <algorithm>

namespace sluice {

namespace {

constexpr size_t kTraceBegin = 3;
constexpr size_t kTraceDigits = 32;
constexpr size_t kParentBegin = 36;
constexpr size_t kParentDigits = 16;
constexpr size_t kLength = 55;  // VERSION-TRACE-PARENT-FLAGS
constexpr size_t kMostIdBytes = 128;

bool AreHex(std::string_view text) {
  return text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

bool IsZero(std::string_view text) {
  return text.find_first_not_of('0') == std::string_view::npos;
}

bool IsIdCharacter(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
         std::string_view("._:/+=@-").find(c) != std::string_view::npos;
}

}  // namespace

std::string TraceIdOf(std::string_view text) {
  if (text.size() < kLength) return "";
  const std::string_view version = text.substr(0, 2);
  const std::string_view trace = text.substr(kTraceBegin, kTraceDigits);
  const std::string_view parent = text.substr(kParentBegin, kParentDigits);
  const std::string_view flags = text.substr(kLength - 2, 2);
  if (text[2] != '-' || text[kParentBegin - 1] != '-' || text[kLength - 3] != '-') return "";
  if (!AreHex(version) || !AreHex(trace) || !AreHex(parent) || !AreHex(flags)) return "";
  // A later version may have more after it.
  if (version == "ff" || (version == "00" && text.size() != kLength)) return "";
  if (text.size() > kLength && text[kLength] != '-') return "";
  if (IsZero(trace) || IsZero(parent)) return "";
  return std::string(trace);
}

bool IsRequestId(std::string_view id) {
  return !id.empty() && id.size() <= kMostIdBytes &&
         std::all_of(id.begin(), id.end(), IsIdCharacter);
}

}  // namespace sluice
