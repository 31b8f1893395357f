#include "base/log.h"

#include <fmt/format.h>
#include <spdlog/sinks/stdout_color_sinks.h>

#include "base/error.h"

namespace sluice {

void InitLogging(std::string_view level, std::string_view mark) {
  const spdlog::level::level_enum parsed = spdlog::level::from_str(std::string(level));
  if (parsed == spdlog::level::off && level != "off") {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("log level '{}' is not one of trace, debug, info, warning, error, off", level));
  }
  auto logger = spdlog::stderr_color_mt("sluice");
  logger->set_pattern(fmt::format("%H:%M:%S.%e %^%l%$ {}%v", mark));
  logger->set_level(parsed);
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace sluice
