#include "base/log.h"

#include <fmt/format.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_color_sinks.h>

#include <iterator>
#include <utility>

#include "base/error.h"

namespace sluice {

namespace {

constexpr const char* kEventLogger = "events";

// Opens every line of JSON.
constexpr const char* kJsonHead = R"({"time":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l",)";

// %*: the message as the inside of a JSON string.
class JsonText : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm& /*time*/,
              spdlog::memory_buf_t& out) override {
    for (const char c : message.payload) {
      if (c == '"' || c == '\\') {
        out.push_back('\\');
        out.push_back(c);
      } else if (static_cast<unsigned char>(c) < ' ') {
        fmt::format_to(std::back_inserter(out), "\\u{:04x}", static_cast<unsigned char>(c));
      } else {
        out.push_back(c);
      }
    }
  }
  std::unique_ptr<custom_flag_formatter> clone() const override {
    return std::make_unique<JsonText>();
  }
};

// %*: the message without the brace that opens it.
class JsonMembers : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm& /*time*/,
              spdlog::memory_buf_t& out) override {
    out.append(message.payload.begin() + 1, message.payload.end());
  }
  std::unique_ptr<custom_flag_formatter> clone() const override {
    return std::make_unique<JsonMembers>();
  }
};

template <class Flag>
std::unique_ptr<spdlog::formatter> MakeFormatter(const std::string& pattern) {
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  formatter->add_flag<Flag>('*').set_pattern(pattern);
  return formatter;
}

}  // namespace

void InitLogging(std::string_view level, std::string_view mark, LogFormat format) {
  const spdlog::level::level_enum parsed = spdlog::level::from_str(std::string(level));
  if (parsed == spdlog::level::off && level != "off") {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("log level '{}' is not one of trace, debug, info, warning, error, off", level));
  }
  auto logger = spdlog::stderr_color_mt("sluice");
  if (format == LogFormat::kJson) {
    logger->set_formatter(
        MakeFormatter<JsonText>(fmt::format("{}\"message\":\"{}%*\"}}", kJsonHead, mark)));
    const auto events = spdlog::stderr_color_mt(kEventLogger);
    events->set_formatter(MakeFormatter<JsonMembers>(std::string(kJsonHead) + "%*"));
    events->set_level(parsed);
    events->flush_on(spdlog::level::info);
  } else {
    logger->set_pattern(fmt::format("%H:%M:%S.%e %^%l%$ {}%v", mark));
  }
  logger->set_level(parsed);
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

std::shared_ptr<spdlog::logger> JsonEventLogger() {
  return spdlog::get(kEventLogger);
}

}  // namespace sluice
