#pragma once

#include <exception>
#include <optional>
#include <string>

#include "base/error.h"

namespace sluice {

// A refusal in the form of OpenAI's API: an HTTP status and the body
// {"error": {"message", "type", "param", "code"}}.
class ApiError : public std::exception {
 public:
  ApiError(int status, std::string message, std::optional<std::string> param = std::nullopt,
           std::optional<std::string> code = std::nullopt);

  // Translates what the engine threw; a failure of ours becomes 500.
  static ApiError From(const Error& error);

  int status() const { return status_; }
  const char* what() const noexcept override { return message_.c_str(); }
  const std::optional<std::string>& param() const { return param_; }
  const std::optional<std::string>& code() const { return code_; }

  // "invalid_request_error" for the client's faults, "rate_limit_error" for 429, else
  // "server_error".
  const char* type() const;

  std::string Body() const;  // JSON

 private:
  int status_;
  std::string message_;
  std::optional<std::string> param_;
  std::optional<std::string> code_;
};

}  // namespace sluice
