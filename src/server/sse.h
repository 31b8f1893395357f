#pragma once

#include <string>
#include <string_view>

namespace sluice {

inline constexpr std::string_view kSseContentType = "text/event-stream; charset=utf-8";
inline constexpr std::string_view kSseDone = "data: [DONE]\n\n";

// One server-sent event (WHATWG HTML, 9.2) that carries `data`; each of its lines becomes a field.
std::string SseEvent(std::string_view data);

}  // namespace sluice
