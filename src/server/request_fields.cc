#include "server/request_fields.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

namespace sluice {

namespace json = boost::json;

namespace {

constexpr size_t kMaxDepth = 32;

}  // namespace

json::object ParseBody(std::string_view body) {
  json::parse_options options;
  options.max_depth = kMaxDepth;
  json::error_code error;
  json::value value = json::parse({body.data(), body.size()}, error, {}, options);
  if (error == json::error::too_deep) {
    throw ApiError(400, fmt::format("the body's JSON is nested more than {} deep", kMaxDepth));
  }
  if (error) {
    throw ApiError(400, "the body is not valid JSON in UTF-8: " + error.message(), std::nullopt,
                   "invalid_json");
  }
  if (!value.is_object()) {
    throw ApiError(400, fmt::format("the body must be a JSON object, got {}", KindName(value)));
  }
  return std::move(value.get_object());
}

std::string_view KindName(const json::value& value) {
  switch (value.kind()) {
    case json::kind::null:
      return "null";
    case json::kind::bool_:
      return "a boolean";
    case json::kind::int64:
    case json::kind::uint64:
    case json::kind::double_:
      return "a number";
    case json::kind::string:
      return "a string";
    case json::kind::array:
      return "an array";
    case json::kind::object:
      return "an object";
  }
  return "an unknown value";
}

std::optional<int64_t> WholeNumber(const json::value& value) {
  if (value.is_int64()) return value.get_int64();
  // Doubles hold whole numbers exactly below 2^53.
  if (value.is_double()) {
    const double number = value.get_double();
    if (std::abs(number) < 0x1p53 && number == std::floor(number)) {
      return static_cast<int64_t>(number);
    }
  }
  return std::nullopt;
}

void RequestFields::Fail(std::string_view name, const std::string& message) const {
  throw ApiError(400, message, prefix_ + std::string(name), "invalid_value");
}

void RequestFields::FailType(std::string_view name, std::string_view expected,
                             const json::value& got) const {
  throw ApiError(400,
                 fmt::format("{}{} must be {}, got {}", prefix_, name, expected, KindName(got)),
                 prefix_ + std::string(name), "invalid_type");
}

const json::value* RequestFields::Find(std::string_view name) const {
  const json::value* value = object_.if_contains({name.data(), name.size()});
  return value != nullptr && !value->is_null() ? value : nullptr;
}

std::optional<bool> RequestFields::Bool(std::string_view name) const {
  const json::value* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_bool()) FailType(name, "a boolean", *value);
  return value->get_bool();
}

std::optional<int64_t> RequestFields::Integer(std::string_view name, Bounds<int64_t> bounds) const {
  const json::value* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) FailType(name, "an integer", *value);
  const std::optional<int64_t> number = WholeNumber(*value);
  if (!number)
    Fail(name, fmt::format("{}{} must be an integer, got {}", prefix_, name,
                           std::string_view(json::serialize(*value))));
  if (*number < bounds.low) {
    Fail(name, fmt::format("{}{} must be at least {}, got {}", prefix_, name, bounds.low, *number));
  }
  if (*number > bounds.high) {
    Fail(name, fmt::format("{}{} must be at most {}, got {}", prefix_, name, bounds.high, *number));
  }
  return number;
}

std::optional<double> RequestFields::Number(std::string_view name, Bounds<double> bounds) const {
  const json::value* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) FailType(name, "a number", *value);
  const double number = value->to_number<double>();
  // Negated, so that what is not a number fails too.
  if (!(number >= bounds.low)) {
    Fail(name, fmt::format("{}{} must be at least {}, got {}", prefix_, name, bounds.low, number));
  }
  if (!(number <= bounds.high)) {
    Fail(name, fmt::format("{}{} must be at most {}, got {}", prefix_, name, bounds.high, number));
  }
  return number;
}

std::optional<std::string> RequestFields::String(std::string_view name) const {
  const json::value* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) FailType(name, "a string", *value);
  return std::string(value->get_string());
}

std::optional<std::vector<int32_t>> RequestFields::TokenIds(std::string_view name,
                                                            int vocab_size) const {
  const json::value* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_array()) FailType(name, "an array of token ids", *value);
  std::vector<int32_t> ids;
  ids.reserve(value->get_array().size());
  for (const json::value& element : value->get_array()) {
    const std::optional<int64_t> id = WholeNumber(element);
    if (!id) FailType(name, "an array of token ids", element);
    if (*id < 0 || *id >= vocab_size) {
      Fail(name, fmt::format("{}{} holds token id {}, outside the vocabulary of {} tokens", prefix_,
                             name, *id, vocab_size));
    }
    ids.push_back(static_cast<int32_t>(*id));
  }
  return ids;
}

}  // namespace sluice
