#pragma once

#include <spdlog/spdlog.h>

#include <memory>
#include <string_view>

namespace sluice {

enum class LogFormat {
  kText,  // "HH:MM:SS.mmm LEVEL message"
  kJson,  // {"time": ISO 8601, "level": ..., "message": ...}
};

// Sets up the process's logger: one line an event on standard error.
// `mark` stands before each message, to tell processes that share a standard error apart.
// `level` is one of trace, debug, info, warning, error, off. Throws Error for any other.
// Call sites use spdlog::info("... {}", value) directly; no file of kernels includes this header.
void InitLogging(std::string_view level, std::string_view mark = "",
                 LogFormat format = LogFormat::kText);

// Where the process logs as JSON, a logger beside its own for events that are more than a message:
// what it is given is a JSON object, to whose members time and level are added. Else null.
std::shared_ptr<spdlog::logger> JsonEventLogger();

}  // namespace sluice
