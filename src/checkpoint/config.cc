#include "checkpoint/config.h"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <cmath>
#include <fstream>
#include <sstream>
#include <utility>

#include "base/error.h"
#include "checkpoint/yaml.h"

namespace sluice {
namespace {

namespace json = boost::json;

// A config is some kilobytes; anything past this is not one.
constexpr size_t kMaxConfigBytes = 16 << 20;

json::object ParseObject(std::string_view text, const std::string& origin) {
  json::error_code error;
  json::value value = json::parse({text.data(), text.size()}, error);
  if (error) {
    throw Error(ErrorCode::kInvalidArgument,
                origin + ": is not valid JSON (" + error.message() + ")");
  }
  if (!value.is_object()) {
    throw Error(ErrorCode::kInvalidArgument,
                origin + ": expected a JSON object of keys and values, as in {\"key\": 1}");
  }
  return std::move(value.get_object());
}

// Moves `from` to `to`; a null stays one, so that an override can unset the key. Both set to
// different values is an error: no reader could tell which holds.
void Rename(json::object& object, std::string_view from, std::string_view to,
            const std::string& origin) {
  const auto found = object.find(from);
  if (found == object.end()) return;
  json::value value = std::move(found->value());
  object.erase(found);
  json::value& target = object[to];
  if (value.is_null()) return;
  if (!target.is_null() && target != value) {
    throw Error(ErrorCode::kInvalidArgument,
                origin + ": \"" + std::string(from) + "\" is " + json::serialize(value) +
                    " and \"" + std::string(to) + "\" is " + json::serialize(target) +
                    "; they name the same thing, leave one out");
  }
  target = std::move(value);
}

// Brings the keys of both dialects to one set of names; see HfConfig.
void Normalise(json::object& object, const std::string& origin) {
  Rename(object, "torch_dtype", "dtype", origin);
  Rename(object, "num_local_experts", "num_experts", origin);
  Rename(object, "rope_scaling", "rope_parameters", origin);
  const auto rope = object.find("rope_parameters");
  if (rope != object.end() && rope->value().is_object()) {
    Rename(rope->value().get_object(), "type", "rope_type", origin);
  }
  const auto theta = object.find("rope_theta");
  if (theta == object.end()) return;
  const json::value value = theta->value();
  object.erase(theta);
  json::value& parameters = object["rope_parameters"];
  if (parameters.is_null()) parameters = json::object();
  if (!parameters.is_object()) return;  // its getter says what came
  // Under another name for a moment, so that two values that differ are refused as above.
  parameters.get_object()["config's rope_theta"] = value;
  Rename(parameters.get_object(), "config's rope_theta", "rope_theta", origin);
}

// Leaves of rope_parameters what the older dialect keeps outside of rope_scaling.
void RemoveRopeScaling(json::object& object) {
  const auto found = object.find("rope_parameters");
  if (found == object.end() || !found->value().is_object()) return;
  json::object kept;
  for (const auto& [key, value] : found->value().get_object()) {
    if (key == "rope_theta" || key == "partial_rotary_factor") kept[key] = value;
  }
  found->value() = std::move(kept);
}

void Merge(json::object& target, const json::object& source) {
  for (const auto& [key, value] : source) {
    json::value& slot = target[key];
    if (slot.is_object() && value.is_object()) {
      Merge(slot.get_object(), value.get_object());
    } else {
      slot = value;
    }
  }
}

std::optional<int64_t> AsInt(const json::value& value) {
  if (const int64_t* integer = value.if_int64()) return *integer;
  // 1e6 and 32768.0 are whole numbers too.
  if (const double* number = value.if_double();
      number && std::floor(*number) == *number && std::abs(*number) < 0x1p53) {
    return static_cast<int64_t>(*number);
  }
  return std::nullopt;
}

std::optional<double> AsFloat(const json::value& value) {
  if (const int64_t* integer = value.if_int64()) return static_cast<double>(*integer);
  if (const uint64_t* integer = value.if_uint64()) return static_cast<double>(*integer);
  if (const double* number = value.if_double()) return *number;
  return std::nullopt;
}

}  // namespace

HfConfig::HfConfig(json::object object, std::string origin, std::string prefix)
    : object_(std::move(object)), origin_(std::move(origin)), prefix_(std::move(prefix)) {}

HfConfig HfConfig::FromJson(std::string_view text, const std::string& origin) {
  json::object object = ParseObject(text, origin);
  Normalise(object, origin);
  return HfConfig(std::move(object), origin, "");
}

HfConfig HfConfig::FromFile(const std::filesystem::path& file) {
  // Looked at first: to open a pipe would wait for whoever writes it.
  std::error_code ignored;
  std::ifstream stream;
  if (std::filesystem::is_regular_file(file, ignored)) stream.open(file, std::ios::binary);
  if (!stream.is_open()) {
    throw Error(ErrorCode::kNotFound,
                file.string() + ": cannot be read; expected a Hugging Face config.json");
  }
  std::string text(kMaxConfigBytes + 1, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(stream.gcount()));
  if (text.size() > kMaxConfigBytes) {
    throw Error(ErrorCode::kInvalidArgument, file.string() + ": is too large for a config");
  }
  return FromJson(text, file.string());
}

HfConfig HfConfig::FromFolder(const std::filesystem::path& dir) {
  return FromFile(dir / "config.json");
}

HfConfig HfConfig::FromTopologyYaml(std::string_view text, const std::string& origin) {
  json::value value = YamlToJson(LoadYaml(text, origin));
  if (!value.is_object()) {
    throw Error(ErrorCode::kInvalidArgument,
                origin + ": expected config.json's keys in YAML, as in `num_hidden_layers: 2`");
  }
  Normalise(value.get_object(), origin);
  return HfConfig(std::move(value.get_object()), origin, "");
}

void HfConfig::ApplyOverrides(std::string_view text) {
  json::object overrides = ParseObject(text, "--hf-overrides");
  const json::value* scaling = overrides.if_contains("rope_scaling");
  if (scaling != nullptr && scaling->is_null()) {
    RemoveRopeScaling(object_);
    overrides.erase("rope_scaling");
  }
  Normalise(overrides, "--hf-overrides");
  Merge(object_, overrides);
}

const json::value* HfConfig::FindSet(std::string_view key) const {
  read_.emplace(key);
  const json::value* value = object_.if_contains({key.data(), key.size()});
  return value == nullptr || value->is_null() ? nullptr : value;
}

bool HfConfig::Has(std::string_view key) const {
  return FindSet(key) != nullptr;
}

std::string HfConfig::Describe(std::string_view key) const {
  const json::value* value = object_.if_contains({key.data(), key.size()});
  std::string text = value == nullptr ? "nothing" : json::serialize(*value);
  constexpr size_t kReadable = 120;
  if (text.size() > kReadable) text = text.substr(0, kReadable) + "...";
  return text;
}

const json::value& HfConfig::Require(std::string_view key, const char* type) const {
  const json::value* value = FindSet(key);
  if (value == nullptr) FailType(key, type);
  return *value;
}

void HfConfig::FailType(std::string_view key, const char* type) const {
  throw Error(ErrorCode::kInvalidArgument, origin_ + ": \"" + prefix_ + std::string(key) +
                                               "\" should be " + type + ", but is " +
                                               Describe(key));
}

int64_t HfConfig::Int(std::string_view key) const {
  const std::optional<int64_t> value = AsInt(Require(key, "an integer"));
  if (!value) FailType(key, "an integer");
  return *value;
}

double HfConfig::Float(std::string_view key) const {
  const std::optional<double> value = AsFloat(Require(key, "a number"));
  if (!value) FailType(key, "a number");
  return *value;
}

bool HfConfig::Bool(std::string_view key) const {
  const bool* value = Require(key, "true or false").if_bool();
  if (value == nullptr) FailType(key, "true or false");
  return *value;
}

std::string HfConfig::String(std::string_view key) const {
  const json::string* value = Require(key, "a string").if_string();
  if (value == nullptr) FailType(key, "a string");
  return std::string(*value);
}

std::vector<int64_t> HfConfig::IntList(std::string_view key) const {
  const json::array* array = Require(key, "a list of integers").if_array();
  if (array == nullptr) FailType(key, "a list of integers");
  std::vector<int64_t> list;
  for (const json::value& item : *array) {
    const std::optional<int64_t> value = AsInt(item);
    if (!value) FailType(key, "a list of integers");
    list.push_back(*value);
  }
  return list;
}

std::vector<std::string> HfConfig::StringList(std::string_view key) const {
  const json::array* array = Require(key, "a list of strings").if_array();
  if (array == nullptr) FailType(key, "a list of strings");
  std::vector<std::string> list;
  for (const json::value& item : *array) {
    if (!item.is_string()) FailType(key, "a list of strings");
    list.emplace_back(item.get_string());
  }
  return list;
}

HfConfig HfConfig::Object(std::string_view key) const {
  const json::object* object = Require(key, "an object").if_object();
  if (object == nullptr) FailType(key, "an object");
  return HfConfig(*object, origin_, prefix_ + std::string(key) + ".");
}

std::optional<int64_t> HfConfig::OptInt(std::string_view key) const {
  return Has(key) ? std::optional(Int(key)) : std::nullopt;
}
std::optional<double> HfConfig::OptFloat(std::string_view key) const {
  return Has(key) ? std::optional(Float(key)) : std::nullopt;
}
std::optional<bool> HfConfig::OptBool(std::string_view key) const {
  return Has(key) ? std::optional(Bool(key)) : std::nullopt;
}
std::optional<std::string> HfConfig::OptString(std::string_view key) const {
  return Has(key) ? std::optional(String(key)) : std::nullopt;
}
std::optional<HfConfig> HfConfig::OptObject(std::string_view key) const {
  return Has(key) ? std::optional(Object(key)) : std::nullopt;
}

std::vector<std::string> HfConfig::UnreadKeys() const {
  std::set<std::string> unread;
  for (const auto& [key, value] : object_) {
    if (!value.is_null() && !read_.contains(std::string_view(key.data(), key.size()))) {
      unread.emplace(key);
    }
  }
  return {unread.begin(), unread.end()};
}

}  // namespace sluice
