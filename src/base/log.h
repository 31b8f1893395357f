#pragma once

#include <spdlog/spdlog.h>

#include <string_view>

namespace sluice {

// Sets up the process's logger: one line an event on standard error, "HH:MM:SS.mmm LEVEL message".
// `mark` stands before each message, to tell processes that share a standard error apart.
// `level` is one of trace, debug, info, warning, error, off. Throws Error for any other.
// Call sites use spdlog::info("... {}", value) directly; no file of kernels includes this header.
void InitLogging(std::string_view level, std::string_view mark = "");

}  // namespace sluice
