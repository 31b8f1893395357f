#include "server/sse.h"

namespace sluice {

std::string SseEvent(std::string_view data) {
  std::string event;
  event.reserve(data.size() + 8);
  for (size_t begin = 0;;) {
    const size_t end = data.find('\n', begin);
    event += "data: ";
    event += data.substr(begin, end - begin);
    event += '\n';
    if (end == std::string_view::npos) break;
    begin = end + 1;
  }
  event += '\n';
  return event;
}

}  // namespace sluice
