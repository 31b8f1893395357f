#pragma once

#include <spdlog/spdlog.h>

#include <string_view>

namespace sluice {

// Sets up the process's logger: one line an event on standard error, "HH:MM:SS.mmm LEVEL message".
// `level` is one of trace, debug, info, warning, error, off. Throws Error for any other.
// Call sites use spdlog::info("... {}", value) directly; no file of kernels includes this header.
void InitLogging(std::string_view level);

}  // namespace sluice
