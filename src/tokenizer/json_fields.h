#pragma once

#include <boost/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"

namespace sluice {

// Checked reads of tokenizer.json. `where` names the enclosing object in messages, "pre_tokenizer".
// A missing key or a wrong type is Error(kDataLoss).

// Returns the member, or null when it is absent or JSON null.
const boost::json::value* FindField(const boost::json::object& object, std::string_view key);

const boost::json::value& RequireField(const boost::json::object& object, std::string_view key,
                                       std::string_view where);
const boost::json::object& RequireObject(const boost::json::value& value, std::string_view where);
const boost::json::array& RequireArray(const boost::json::value& value, std::string_view where);
std::string_view RequireString(const boost::json::value& value, std::string_view where);

// A string of exactly one code point, as UTF-8.
std::string OneCharacter(const boost::json::value& value, std::string_view where);

// The value of a boolean member, `fallback` when absent or null.
bool BoolField(const boost::json::object& object, std::string_view key, bool fallback,
               std::string_view where);

// The "type" member that every component of tokenizer.json carries.
std::string_view TypeOf(const boost::json::object& object, std::string_view where);

// The value of a member that counts: an integer from 0 to `max`.
size_t CountField(const boost::json::object& object, std::string_view key, size_t max,
                  std::string_view where);

// Throws Error(kUnsupported) when a pipeline that has `count` steps is to get another and that
// would be more than any published file has by far: each step costs memory, and time for every
// text.
void CheckStepCount(size_t count, std::string_view where);

Error DataLoss(const std::string& message);
Error Unsupported(const std::string& message);

}  // namespace sluice
