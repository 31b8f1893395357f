#include "server/request_log.h"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <cmath>

namespace sluice {

namespace json = boost::json;

namespace {

double Rounded(double ms) {
  return std::round(ms * 1e3) / 1e3;
}

json::object Members(const RequestRecord& record) {
  json::object members{{"message", "request"},
                       {"request_id", record.request_id},
                       {"path", record.path},
                       {"status", record.status},
                       {"prompt_tokens", record.prompt_tokens},
                       {"cached_tokens", record.cached_tokens},
                       {"completion_tokens", record.completion_tokens},
                       {"latency_ms", Rounded(record.latency_ms)}};
  if (record.ttft_ms) members["ttft_ms"] = Rounded(*record.ttft_ms);
  if (!record.trace_id.empty()) members["trace_id"] = record.trace_id;
  if (!record.finish_reason.empty()) members["finish_reason"] = record.finish_reason;
  if (!record.error.empty()) members["error"] = record.error;
  if (!record.prompt.empty()) members["prompt"] = record.prompt;
  return members;
}

std::string Line(const RequestRecord& record) {
  std::string line = fmt::format("{} {} {}", record.request_id, record.path, record.status);
  if (record.prompt_tokens > 0) {
    line += fmt::format(": {} tokens in ({} cached), {} out, {:.1f} ms", record.prompt_tokens,
                        record.cached_tokens, record.completion_tokens, record.latency_ms);
  }
  if (record.ttft_ms) line += fmt::format(" (first token {:.1f} ms)", *record.ttft_ms);
  if (!record.finish_reason.empty()) line += ", " + record.finish_reason;
  if (!record.trace_id.empty()) line += ", trace " + record.trace_id;
  if (!record.error.empty()) line += ": " + record.error;
  // Quoted, so that it stays one line.
  if (!record.prompt.empty()) line += ", prompt " + json::serialize(json::string(record.prompt));
  return line;
}

}  // namespace

RequestLog::RequestLog(bool prompts) : prompts_(prompts), json_(JsonEventLogger()) {}

void RequestLog::Write(const RequestRecord& record) const {
  const auto level = record.status == 500 ? spdlog::level::err : spdlog::level::info;
  if (!spdlog::should_log(level)) return;
  if (json_ != nullptr) {
    json_->log(level, json::serialize(Members(record)));
  } else {
    spdlog::log(level, "{}", Line(record));
  }
}

}  // namespace sluice
