#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

// The keys and values of a Hugging Face config.json, under one set of names whichever version of
// transformers wrote it:
//   torch_dtype -> dtype; num_local_experts -> num_experts;
//   rope_theta, rope_scaling (and its `type`) -> rope_parameters {rope_theta, rope_type, ...}.
// A getter names the key, the type it wants and what came. A key that is absent or null counts as
// not set. Remembers which keys were asked for, so that whoever interprets a config can report the
// others. Not for several threads at once.
class HfConfig {
 public:
  // `origin` names the source in errors. Throws Error(kInvalidArgument) for text that is not a JSON
  // object.
  static HfConfig FromJson(std::string_view text, const std::string& origin);
  // Reads `file`. Throws Error(kNotFound) when it is not there.
  static HfConfig FromFile(const std::filesystem::path& file);
  // Reads `dir`/config.json.
  static HfConfig FromFolder(const std::filesystem::path& dir);
  // The same keys written in YAML: plain scalars become null, bools and numbers as in YAML 1.2.
  static HfConfig FromTopologyYaml(std::string_view text, const std::string& origin);

  // Merges a JSON object of keys into this config, objects key by key, anything else by
  // replacement. A null unsets its key; "rope_scaling": null leaves the rope's theta.
  void ApplyOverrides(std::string_view json);

  bool Has(std::string_view key) const;

  // These throw Error(kInvalidArgument) when the key is not set or of another type.
  int64_t Int(std::string_view key) const;
  double Float(std::string_view key) const;
  bool Bool(std::string_view key) const;
  std::string String(std::string_view key) const;
  std::vector<int64_t> IntList(std::string_view key) const;
  std::vector<std::string> StringList(std::string_view key) const;
  HfConfig Object(std::string_view key) const;  // its errors name "key.inner"

  // These return nullopt when the key is not set; another type is an error still.
  std::optional<int64_t> OptInt(std::string_view key) const;
  std::optional<double> OptFloat(std::string_view key) const;
  std::optional<bool> OptBool(std::string_view key) const;
  std::optional<std::string> OptString(std::string_view key) const;
  std::optional<HfConfig> OptObject(std::string_view key) const;

  // The value as JSON text, cut to a readable length: for messages.
  std::string Describe(std::string_view key) const;

  // Keys that are set and that no getter was asked for, sorted.
  std::vector<std::string> UnreadKeys() const;

  const std::string& origin() const { return origin_; }
  const boost::json::object& json() const { return object_; }

 private:
  HfConfig(boost::json::object object, std::string origin, std::string prefix);
  const boost::json::value* FindSet(std::string_view key) const;
  const boost::json::value& Require(std::string_view key, const char* type) const;
  [[noreturn]] void FailType(std::string_view key, const char* type) const;

  boost::json::object object_;
  std::string origin_;
  std::string prefix_;  // "rope_parameters." for a nested object
  mutable std::set<std::string, std::less<>> read_;
};

}  // namespace sluice
