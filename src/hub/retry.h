#pragma once

#include <chrono>
#include <optional>
#include <stop_token>
#include <string>

#include "base/error.h"

namespace sluice {

// A failure that may pass by itself: a lost connection, a server that is busy.
class TransientError : public Error {
 public:
  explicit TransientError(const std::string& message,
                          std::optional<std::chrono::seconds> retry_after = {})
      : Error(ErrorCode::kUnavailable, message), retry_after_(retry_after) {}
  // How long the server asks to be left alone.
  std::optional<std::chrono::seconds> retry_after() const { return retry_after_; }

 private:
  std::optional<std::chrono::seconds> retry_after_;
};

// Counts failures in a row and waits between attempts: half a second, doubled each time to 30 s,
// or what the server asks for where that is longer.
class Backoff {
 public:
  explicit Backoff(int max_retries) : left_(max_retries), max_retries_(max_retries) {}

  // Waits for the next attempt and says so in the log. Throws the error on when none is left, when
  // the server asks for more than 10 minutes, and once `stop` is asked for.
  void Wait(const TransientError& error, const std::stop_token& stop);
  // After progress: the next failure is the first again.
  void Reset();

 private:
  int left_;
  int max_retries_;
  std::chrono::milliseconds delay_{500};
};

}  // namespace sluice
