#include "plan/forest.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/parse.hpp>
#include <charconv>
#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>

#include "base/error.h"

namespace sluice {
namespace {

namespace json = boost::json;

constexpr size_t kMaxBytes = size_t{64} << 20;
constexpr size_t kMaxFeatures = 256;
constexpr size_t kMaxValues = 4096;
constexpr size_t kMaxTargets = 64;
constexpr size_t kMaxNodes = size_t{1} << 22;

[[noreturn]] void FailValue(const std::string& what) {
  throw Error(ErrorCode::kInvalidArgument, what);
}

std::optional<double> ParseNumber(const std::string& text) {
  double number = 0.0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || stop != end || !std::isfinite(number)) return std::nullopt;
  return number;
}

const std::string& ValueOf(const Forest::Values& values, const ForestFeature& feature) {
  const auto found = values.find(feature.name);
  if (found != values.end()) return found->second;
  const std::string expected =
      feature.is_number ? fmt::format("a number, trained on {:g} to {:g}", feature.min, feature.max)
                        : fmt::format("one of {}", fmt::join(feature.choices, ", "));
  FailValue("no value for " + feature.name + ": expected " + expected);
}

double NumberOf(const Forest::Values& values, const ForestFeature& feature) {
  const std::string& text = ValueOf(values, feature);
  const std::optional<double> number = ParseNumber(text);
  if (!number) FailValue(feature.name + " should be a number, got '" + text + "'");
  return *number;
}

size_t ChoiceOf(const Forest::Values& values, const ForestFeature& feature) {
  const std::string& text = ValueOf(values, feature);
  const auto found = std::find(feature.choices.begin(), feature.choices.end(), text);
  if (found == feature.choices.end()) {
    FailValue(fmt::format("{} is '{}', which was not trained on; it knows {}", feature.name, text,
                          fmt::join(feature.choices, ", ")));
  }
  return found - feature.choices.begin();
}

}  // namespace

// Reads the JSON, checking all of it before anything is evaluated.
class Forest::Reader {
 public:
  explicit Reader(const std::string& where) : where_(where) {}

  Forest Read(std::string_view text) {
    if (text.size() > kMaxBytes) Fail("is larger than 64 MiB");
    boost::system::error_code error;
    const json::value root = json::parse({text.data(), text.size()}, error);
    if (error) Fail("is not JSON (" + error.message() + ")");
    if (!root.is_object()) Fail("is not a JSON object");
    const json::object& object = root.as_object();
    if (Text(object, "format") != "sluice-forest" || Number(object, "version") != 1) {
      Fail("is not a forest of version 1, as studies/train_predictor.py writes it");
    }
    Forest forest;
    forest.source_ = Text(object, "source");
    forest.trained_on_ = static_cast<int64_t>(Number(object, "trained_on"));
    for (const json::value& feature : List(object, "features", 1, kMaxFeatures)) {
      forest.features_.push_back(ReadFeature(Object(feature, "a feature")));
    }
    columns_ = 0;
    for (const ForestFeature& feature : forest.features_) {
      columns_ += feature.is_number ? 1 : feature.choices.size();
    }
    for (const json::value& target : List(object, "targets", 1, kMaxTargets)) {
      forest.targets_.push_back(ReadTarget(Object(target, "a target")));
    }
    return forest;
  }

 private:
  [[noreturn]] void Fail(const std::string& what) const { FailValue(where_ + ": " + what); }

  const json::value& At(const json::object& object, const char* key) const {
    const json::value* found = object.if_contains(key);
    if (found == nullptr) Fail(std::string("has no \"") + key + "\"");
    return *found;
  }
  const json::object& Object(const json::value& value, const char* what) const {
    if (!value.is_object()) Fail(std::string(what) + " is not an object");
    return value.as_object();
  }
  std::string Text(const json::object& object, const char* key) const {
    const json::value& value = At(object, key);
    if (!value.is_string()) Fail(std::string(key) + " is not a string");
    return std::string(value.as_string());
  }
  double Finite(const json::value& value, const char* key) const {
    const double number =
        value.is_number() ? value.to_number<double>() : std::numeric_limits<double>::quiet_NaN();
    if (!std::isfinite(number)) Fail(std::string(key) + " is not a finite number");
    return number;
  }
  double Number(const json::object& object, const char* key) const {
    return Finite(At(object, key), key);
  }
  const json::array& List(const json::object& object, const char* key, size_t least,
                          size_t most) const {
    const json::value& value = At(object, key);
    const size_t size = value.is_array() ? value.as_array().size() : 0;
    if (!value.is_array() || size < least || size > most) {
      Fail(fmt::format("{} is not a list of {} to {}", key, least, most));
    }
    return value.as_array();
  }

  ForestFeature ReadFeature(const json::object& object) const {
    ForestFeature feature{.name = Text(object, "name")};
    const std::string kind = Text(object, "kind");
    if (kind != "number" && kind != "category") Fail("a feature's kind is \"" + kind + "\"");
    feature.is_number = kind == "number";
    for (const json::value& value : List(object, "values", 1, kMaxValues)) {
      if (feature.is_number) {
        feature.seen.push_back(Finite(value, "values"));
      } else if (value.is_string()) {
        feature.choices.emplace_back(value.as_string());
      } else {
        Fail("a value of " + feature.name + " is not a string");
      }
    }
    if (feature.is_number) {
      const auto [least, most] = std::minmax_element(feature.seen.begin(), feature.seen.end());
      feature.min = *least;
      feature.max = *most;
    }
    return feature;
  }

  TargetForest ReadTarget(const json::object& object) {
    TargetForest target{
        .about = {.name = Text(object, "name"),
                  .r2 = Number(object, "cross_validated_r2"),
                  .relative_error = Number(object, "cross_validated_relative_error")}};
    const std::string scale = Text(object, "scale");
    if (scale != "linear" && scale != "log") Fail("a target's scale is \"" + scale + "\"");
    target.log = scale == "log";
    for (const json::value& tree : List(object, "trees", 1, kMaxNodes)) {
      target.trees.push_back(ReadTree(Object(tree, "a tree")));
    }
    return target;
  }

  std::vector<double> Numbers(const json::object& object, const char* key, size_t size) const {
    std::vector<double> numbers;
    for (const json::value& value : List(object, key, size, size)) {
      numbers.push_back(Finite(value, key));
    }
    return numbers;
  }
  // Whole numbers from `least` to `most`.
  std::vector<int32_t> Indices(const json::object& object, const char* key, size_t size,
                               double least, double most) const {
    std::vector<int32_t> indices;
    for (const double number : Numbers(object, key, size)) {
      if (number < least || number > most || number != std::floor(number)) {
        Fail(fmt::format("{} has {:g}, expected {:g} to {:g}", key, number, least, most));
      }
      indices.push_back(static_cast<int32_t>(number));
    }
    return indices;
  }

  Tree ReadTree(const json::object& object) {
    const size_t size = List(object, "left", 1, kMaxNodes).size();
    nodes_ += size;
    if (nodes_ > kMaxNodes) Fail("has more than 2^22 nodes");
    const auto last = static_cast<double>(size) - 1;
    Tree tree{.column = Indices(object, "column", size, -2, static_cast<double>(columns_) - 1),
              .threshold = Numbers(object, "threshold", size),
              .left = Indices(object, "left", size, -1, last),
              .right = Indices(object, "right", size, -1, last),
              .value = Numbers(object, "value", size)};
    for (size_t node = 0; node < size; ++node) {
      if (tree.left[node] < 0 && tree.right[node] < 0) continue;
      const auto at = static_cast<int32_t>(node);
      if (tree.left[node] <= at || tree.right[node] <= at || tree.column[node] < 0) {
        Fail(fmt::format("node {} of a tree leads back, or compares nothing", node));
      }
    }
    return tree;
  }

  const std::string& where_;
  size_t columns_ = 0;
  size_t nodes_ = 0;
};

Forest Forest::FromJson(std::string_view text, const std::string& where) {
  return Reader(where).Read(text);
}

Forest Forest::Read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  if (!file.is_open() || file.bad()) {
    throw Error(ErrorCode::kNotFound, path.string() +
                                          ": cannot be read; expected a forest, as "
                                          "studies/train_predictor.py writes it");
  }
  return FromJson(text, path.string());
}

std::vector<Forest::Target> Forest::targets() const {
  std::vector<Target> targets;
  for (const TargetForest& target : targets_) targets.push_back(target.about);
  return targets;
}

std::vector<std::string> Forest::Outside(const Values& values) const {
  for (const auto& [name, value] : values) {
    const auto known = [&, wanted = std::string_view(name)](const ForestFeature& feature) {
      return feature.name == wanted;
    };
    if (std::any_of(features_.begin(), features_.end(), known)) continue;
    std::string names;
    for (const ForestFeature& feature : features_) names += " " + feature.name;
    FailValue(name + " is no feature; this forest has" + names);
  }
  std::vector<std::string> outside;
  for (const ForestFeature& feature : features_) {
    if (!feature.is_number) {
      ChoiceOf(values, feature);
      continue;
    }
    const double number = NumberOf(values, feature);
    if (number >= feature.min && number <= feature.max) continue;
    outside.push_back(fmt::format("{} is {:g}, trained on {:g} to {:g}", feature.name, number,
                                  feature.min, feature.max));
  }
  return outside;
}

std::vector<float> Forest::Columns(const Values& values) const {
  std::vector<float> columns;
  for (const ForestFeature& feature : features_) {
    if (feature.is_number) {
      columns.push_back(static_cast<float>(NumberOf(values, feature)));
      continue;
    }
    const size_t chosen = ChoiceOf(values, feature);
    for (size_t c = 0; c < feature.choices.size(); ++c)
      columns.push_back(c == chosen ? 1.0f : 0.0f);
  }
  return columns;
}

double Forest::Tree::Evaluate(const std::vector<float>& columns) const {
  int32_t node = 0;
  while (left[node] >= 0) {
    node = static_cast<double>(columns[column[node]]) <= threshold[node] ? left[node] : right[node];
  }
  return value[node];
}

std::vector<ForestPrediction> Forest::Predict(const Values& values) const {
  const std::vector<float> columns = Columns(values);
  std::vector<ForestPrediction> predictions;
  for (const TargetForest& target : targets_) {
    double sum = 0.0;
    double low = std::numeric_limits<double>::infinity();
    double high = -low;
    for (const Tree& tree : target.trees) {
      const double value = tree.Evaluate(columns);
      sum += value;
      low = std::min(low, value);
      high = std::max(high, value);
    }
    const double mean = sum / static_cast<double>(target.trees.size());
    const auto scaled = [&](double value) { return target.log ? std::exp(value) : value; };
    predictions.push_back({.target = target.about.name,
                           .value = scaled(mean),
                           .low = scaled(low),
                           .high = scaled(high)});
  }
  return predictions;
}

}  // namespace sluice
