#pragma once

#include <string>
#include <string_view>

namespace sluice {

// The trace id of a traceparent field (W3C Trace Context, 3.2), 32 lower-case hexadecimal digits;
// empty where the field is malformed, as the specification asks.
std::string TraceIdOf(std::string_view traceparent);

// Whether a client's own X-Request-Id is taken: up to 128 letters, digits and some punctuation,
// nothing that could be read as more than a name where it is logged.
bool IsRequestId(std::string_view id);

}  // namespace sluice
