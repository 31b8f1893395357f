#include "server/api_error.h"

#include <boost/json.hpp>
#include <utility>

namespace sluice {
namespace {

boost::json::value OrNull(const std::optional<std::string>& text) {
  return text ? boost::json::value(*text) : boost::json::value(nullptr);
}

int StatusOf(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kUnsupported:
      return 400;
    case ErrorCode::kNotFound:
      return 404;
    case ErrorCode::kResourceExhausted:
      return 429;
    case ErrorCode::kUnavailable:
      return 503;
    case ErrorCode::kDataLoss:
    case ErrorCode::kInternal:
      return 500;
  }
  return 500;
}

}  // namespace

ApiError::ApiError(int status, std::string message, std::optional<std::string> param,
                   std::optional<std::string> code)
    : status_(status),
      message_(std::move(message)),
      param_(std::move(param)),
      code_(std::move(code)) {}

ApiError ApiError::From(const Error& error) {
  return ApiError(StatusOf(error.code()), error.what(), std::nullopt, ErrorCodeName(error.code()));
}

const char* ApiError::type() const {
  if (status_ == 429) return "rate_limit_error";
  return status_ < 500 ? "invalid_request_error" : "server_error";
}

std::string ApiError::Body() const {
  return boost::json::serialize(boost::json::object{{"error", boost::json::object{
                                                                  {"message", message_},
                                                                  {"type", type()},
                                                                  {"param", OrNull(param_)},
                                                                  {"code", OrNull(code_)},
                                                              }}});
}

}  // namespace sluice
