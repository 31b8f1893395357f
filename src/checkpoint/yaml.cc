#include "checkpoint/yaml.h"

#include <boost/json/serialize.hpp>
#include <charconv>
#include <cmath>

#include "base/error.h"

namespace sluice {
namespace {

namespace json = boost::json;

constexpr size_t kMaxBytes = 1 << 20;
constexpr int kMaxValues = 1 << 16;
constexpr int kMaxDepth = 16;

// Counts what walking from `node` visits, and refuses what is past the bounds: a few lines of
// aliases can stand for more values than memory holds, or for themselves.
void CheckBounds(const YAML::Node& node, const std::string& origin, int depth, int& values) {
  if (depth > kMaxDepth) {
    throw Error(ErrorCode::kInvalidArgument,
                origin + ": is nested more than " + std::to_string(kMaxDepth) + " levels deep");
  }
  if (++values > kMaxValues) {
    throw Error(ErrorCode::kInvalidArgument, origin + ": stands for more than " +
                                                 std::to_string(kMaxValues) +
                                                 " values; write out fewer, or use fewer aliases");
  }
  if (node.IsMap()) {
    for (const auto& item : node) {
      if (!item.first.IsScalar()) {
        throw Error(ErrorCode::kInvalidArgument,
                    origin + ": has a key that is not a plain word, as in `key: value`");
      }
      CheckBounds(item.second, origin, depth + 1, values);
    }
  } else if (node.IsSequence()) {
    for (const YAML::Node& item : node) CheckBounds(item, origin, depth + 1, values);
  }
}

json::value ScalarToJson(const YAML::Node& node) {
  const std::string& text = node.Scalar();
  if (IsQuotedYaml(node)) return json::string(text);
  if (text == "null" || text == "~" || text.empty()) return nullptr;
  if (text == "true" || text == "True") return true;
  if (text == "false" || text == "False") return false;
  const char* end = text.data() + text.size();
  int64_t integer = 0;
  if (auto [stop, error] = std::from_chars(text.data(), end, integer);
      error == std::errc() && stop == end) {
    return integer;
  }
  double number = 0.0;
  if (auto [stop, error] = std::from_chars(text.data(), end, number);
      error == std::errc() && stop == end && std::isfinite(number)) {
    return number;
  }
  return json::string(text);
}

}  // namespace

YAML::Node LoadYaml(std::string_view text, const std::string& origin) {
  if (text.size() > kMaxBytes) {
    throw Error(ErrorCode::kInvalidArgument, origin + ": has " + std::to_string(text.size()) +
                                                 " bytes, too large for a file of settings");
  }
  try {
    YAML::Node root = YAML::Load(std::string(text));
    int values = 0;
    CheckBounds(root, origin, 0, values);
    return root;
  } catch (const YAML::Exception& error) {
    throw Error(ErrorCode::kInvalidArgument, origin + ": is not valid YAML (" + error.what() + ")");
  }
}

json::value YamlToJson(const YAML::Node& node) {
  if (node.IsMap()) {
    json::object object;
    for (const auto& item : node) object[item.first.Scalar()] = YamlToJson(item.second);
    return object;
  }
  if (node.IsSequence()) {
    json::array array;
    for (const YAML::Node& item : node) array.push_back(YamlToJson(item));
    return array;
  }
  if (node.IsScalar()) return ScalarToJson(node);
  return nullptr;
}

bool IsQuotedYaml(const YAML::Node& node) {
  return node.Tag() == "!";
}

void AppendYamlFlag(const std::string& key, const YAML::Node& value,
                    std::vector<std::string>& arguments) {
  const std::string flag = "--" + key;
  if (value.IsSequence()) {
    for (const YAML::Node& element : value) AppendYamlFlag(key, element, arguments);
  } else if (value.IsMap()) {
    arguments.insert(arguments.end(), {flag, json::serialize(YamlToJson(value))});
  } else if (value.IsNull() || (value.Scalar() == "true" && !IsQuotedYaml(value))) {
    arguments.push_back(flag);
  } else if (value.Scalar() != "false" || IsQuotedYaml(value)) {
    if (key == "model") {
      arguments.push_back(value.Scalar());
    } else {
      arguments.insert(arguments.end(), {flag, value.Scalar()});
    }
  }
}

}  // namespace sluice
