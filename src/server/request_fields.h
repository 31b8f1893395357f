#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/api_error.h"

namespace sluice {

// Parses a request's body: a JSON object in valid UTF-8, nested at most 32 deep. Throws
// ApiError(400).
boost::json::object ParseBody(std::string_view body);

// Bounds of a number, both inclusive.
template <class T>
struct Bounds {
  T low = std::numeric_limits<T>::lowest();
  T high = std::numeric_limits<T>::max();
};

// Checked reads of a request's fields. A field that is absent or null gives nothing; one of a wrong
// type or out of range throws ApiError(400) that names it. What was read is remembered, so that
// RefuseUnread can refuse the rest. Borrows the object. Not thread-safe.
class RequestFields {
 public:
  // `prefix` is put before field names in errors: "messages[0].".
  explicit RequestFields(const boost::json::object& object, std::string prefix = "")
      : object_(object), prefix_(std::move(prefix)) {}

  // For the end of a parse: throws ApiError(400) that names the first field that no call here asked
  // for, and the field that may have been meant. Let pass are null, fields that change no answer
  // ("metadata"), and values that ask for nothing: false, what is empty, a field's default
  // elsewhere
  // ("length_penalty": 1). A misspelt name is refused whatever its value.
  void RefuseUnread() const;

  const boost::json::value* Find(std::string_view name) const;
  std::optional<bool> Bool(std::string_view name) const;
  std::optional<int64_t> Integer(std::string_view name, Bounds<int64_t> bounds = {}) const;
  std::optional<double> Number(std::string_view name, Bounds<double> bounds = {}) const;
  std::optional<std::string> String(std::string_view name) const;
  std::optional<std::vector<int32_t>> TokenIds(std::string_view name, int vocab_size) const;

  // Throws ApiError(400, message) with this field as `param`.
  [[noreturn]] void Fail(std::string_view name, const std::string& message) const;
  [[noreturn]] void FailType(std::string_view name, std::string_view expected,
                             const boost::json::value& got) const;

 private:
  const boost::json::object& object_;
  std::string prefix_;
  mutable std::vector<std::string> read_;
};

// A JSON number that is whole and fits: 16 and 16.0, not "16" or true.
std::optional<int64_t> WholeNumber(const boost::json::value& value);

// "an object", "a string", "null": what to call a value in an error.
std::string_view KindName(const boost::json::value& value);

}  // namespace sluice
