#include "tokenizer/json_fields.h"

#include "tokenizer/utf8.h"

namespace sluice {
namespace {

std::string KindName(const boost::json::value& value) {
  return std::string(boost::json::to_string(value.kind()));
}

Error WrongType(std::string_view where, std::string_view expected,
                const boost::json::value& value) {
  return DataLoss(std::string(where) + " must be " + std::string(expected) + ", not " +
                  KindName(value));
}

}  // namespace

const boost::json::value* FindField(const boost::json::object& object, std::string_view key) {
  const boost::json::value* value = object.if_contains(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

const boost::json::value& RequireField(const boost::json::object& object, std::string_view key,
                                       std::string_view where) {
  if (const boost::json::value* value = FindField(object, key)) return *value;
  throw DataLoss(std::string(where) + " has no \"" + std::string(key) + "\"");
}

const boost::json::object& RequireObject(const boost::json::value& value, std::string_view where) {
  if (const auto* object = value.if_object()) return *object;
  throw WrongType(where, "an object", value);
}

const boost::json::array& RequireArray(const boost::json::value& value, std::string_view where) {
  if (const auto* array = value.if_array()) return *array;
  throw WrongType(where, "an array", value);
}

std::string_view RequireString(const boost::json::value& value, std::string_view where) {
  if (const auto* string = value.if_string()) return {string->data(), string->size()};
  throw WrongType(where, "a string", value);
}

std::string OneCharacter(const boost::json::value& value, std::string_view where) {
  const std::string_view text = RequireString(value, where);
  size_t end = 0;
  if (!text.empty()) NextCodePoint(text, &end);
  if (text.empty() || end != text.size()) {
    throw DataLoss(std::string(where) + " must be one character");
  }
  return std::string(text);
}

size_t CountField(const boost::json::object& object, std::string_view key, size_t max,
                  std::string_view where) {
  const boost::json::value& value = RequireField(object, key, where);
  boost::system::error_code error;
  const int64_t count = value.is_number() ? value.to_number<int64_t>(error) : -1;
  if (error || count < 0 || static_cast<uint64_t>(count) > max) {
    throw DataLoss(std::string(where) + "." + std::string(key) + " must be an integer from 0 to " +
                   std::to_string(max) + ", not " + boost::json::serialize(value));
  }
  return static_cast<size_t>(count);
}

bool BoolField(const boost::json::object& object, std::string_view key, bool fallback,
               std::string_view where) {
  const boost::json::value* value = FindField(object, key);
  if (value == nullptr) return fallback;
  if (const bool* flag = value->if_bool()) return *flag;
  throw WrongType(std::string(where) + "." + std::string(key), "a boolean", *value);
}

std::string_view TypeOf(const boost::json::object& object, std::string_view where) {
  return RequireString(RequireField(object, "type", where), std::string(where) + ".type");
}

void CheckStepCount(size_t count, std::string_view where) {
  constexpr size_t kMaxSteps = 64;
  if (count < kMaxSteps) return;
  throw Unsupported(std::string(where) + " has more than " + std::to_string(kMaxSteps) + " steps");
}

Error DataLoss(const std::string& message) {
  return Error(ErrorCode::kDataLoss, "tokenizer.json: " + message);
}

Error Unsupported(const std::string& message) {
  return Error(ErrorCode::kUnsupported, "tokenizer.json: " + message);
}

}  // namespace sluice
