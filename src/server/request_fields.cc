#include "server/request_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <numeric>
#include <utility>

namespace sluice {

namespace json = boost::json;

namespace {

constexpr size_t kMaxDepth = 32;

// Fields that say who asks, or how to store, bill or send the answer: the text is the same without.
constexpr std::array<std::string_view, 8> kHarmless = {
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",  // tools are refused
    "stream_options.include_obfuscation",
};

// A field that nothing here reads, at the value that leaves the answer as it is.
struct NeutralValue {
  std::string_view name;
  std::string_view json;
};

constexpr std::array<NeutralValue, 10> kNeutral = {{
    {"length_penalty", "1"},
    {"typical_p", "1"},
    {"no_repeat_ngram_size", "0"},
    {"top_logprobs", "0"},
    {"function_call", R"("auto")"},
    {"function_call", R"("none")"},
    {"verbosity", R"("medium")"},
    {"include_reasoning", "true"},
    {"detokenize", "true"},
    {"spaces_between_special_tokens", "true"},
}};

bool IsNeutral(std::string_view name, const json::value& value) {
  bool listed = false;
  for (const NeutralValue& neutral : kNeutral) {
    if (neutral.name != name) continue;
    listed = true;
    const json::value wanted = json::parse({neutral.json.data(), neutral.json.size()});
    const bool same = wanted.is_number() && value.is_number()
                          ? wanted.to_number<double>() == value.to_number<double>()
                          : wanted == value;
    if (same) return true;
  }
  if (value.is_bool()) return !listed && !value.get_bool();
  return (value.is_array() && value.get_array().empty()) ||
         (value.is_object() && value.get_object().empty()) ||
         (value.is_string() && value.get_string().empty());
}

// The name's letters alone: maxTokens and max-tokens are max_tokens to whoever wrote them.
std::string Letters(std::string_view name) {
  std::string letters;
  for (const char c : name) {
    if (c == '_' || c == '-') continue;
    letters += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return letters;
}

// Levenshtein's distance.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i + 1);
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, diagonal + 1});
    }
  }
  return row[b.size()];
}

// The name that `name` may have been meant to be: one edit away, two from eight letters on.
std::optional<std::string> Closest(std::string_view name, const std::vector<std::string>& known) {
  constexpr size_t kLongestName = 64;
  if (name.size() > kLongestName) return std::nullopt;
  const std::string letters = Letters(name);
  const size_t most = letters.size() < 3 ? 0 : std::clamp<size_t>(letters.size() / 4, 1, 2);
  size_t least = most + 1;
  std::optional<std::string> closest;
  for (const std::string& candidate : known) {
    const size_t distance = EditDistance(letters, Letters(candidate));
    if (distance >= least) continue;
    least = distance;
    closest = candidate;
  }
  return closest;
}

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

void RequestFields::RefuseUnread() const {
  for (const auto& [key, value] : object_) {
    const std::string name(key.data(), key.size());
    if (value.is_null() || std::find(read_.begin(), read_.end(), name) != read_.end()) continue;
    const std::string full = prefix_ + name;
    if (std::find(kHarmless.begin(), kHarmless.end(), full) != kHarmless.end()) continue;
    const std::optional<std::string> meant = Closest(name, read_);
    if (!meant && IsNeutral(full, value)) continue;
    const std::string advice = meant ? "did you mean " + prefix_ + *meant + "?" : "leave it out";
    throw ApiError(400, fmt::format("{} is not supported here: {}", full, advice), full,
                   "unsupported_parameter");
  }
}

const json::value* RequestFields::Find(std::string_view name) const {
  if (std::find(read_.begin(), read_.end(), name) == read_.end()) read_.emplace_back(name);
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
  if (!number) {
    Fail(name, fmt::format("{}{} must be an integer from {} to {}, got {}", prefix_, name,
                           bounds.low, bounds.high, json::serialize(*value)));
  }
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
