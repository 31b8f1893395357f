#pragma once

#include <stdexcept>
#include <string>

namespace sluice {

// What kind of failure an Error reports. The doors translate it: server/ to an HTTP status, cli/ to
// an exit code.
enum class ErrorCode {
  kInvalidArgument,    // the caller asked for something malformed or out of range
  kNotFound,           // a file, model or id that does not exist
  kDataLoss,           // a file that is there but truncated or corrupt
  kUnsupported,        // well-formed, but no code here can do it
  kResourceExhausted,  // does not fit in memory, pages or queue
  kUnavailable,        // not now: starting, draining, stopped
  kInternal,           // a defect of ours
};

// Returns the name in lower case with underscores, "invalid_argument".
const char* ErrorCodeName(ErrorCode code);

// An error at a load, parse or server door. The message says what was expected, what came and what
// to do about it.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

// Thrown by a failed SLUICE_CHECK: a programmer's error, with the values and the place. Caught at a
// step's border, so that it fails that step's requests and not the process.
class InternalError : public Error {
 public:
  explicit InternalError(const std::string& message) : Error(ErrorCode::kInternal, message) {}
};

}  // namespace sluice
