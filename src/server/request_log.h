#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/log.h"

namespace sluice {

// What is known of a request for text when it has been answered, refused or given up.
struct RequestRecord {
  std::string request_id;
  std::string trace_id;  // of its traceparent; empty where it has none
  std::string path;
  std::chrono::steady_clock::time_point arrival;
  int status = 200;  // 499 where the client went away, whatever it had been told
  int prompt_tokens = 0;
  int cached_tokens = 0;  // of the prompt, that were not computed again
  int completion_tokens = 0;
  std::optional<double> ttft_ms;
  double latency_ms = 0.0;
  std::string finish_reason;  // of the last sequence; empty where none began
  std::string error;
  std::string prompt;  // empty unless prompts are logged
};

// Logs requests, one line each, by any thread: as an error where the fault is ours.
class RequestLog {
 public:
  // With `prompts` their text too.
  explicit RequestLog(bool prompts);

  bool wants_prompts() const { return prompts_; }
  void Write(const RequestRecord& record) const;

 private:
  const bool prompts_;
  const std::shared_ptr<spdlog::logger> json_;  // null: as text, to the process's logger
};

}  // namespace sluice
