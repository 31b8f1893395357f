#include "plan/forest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <cmath>
#include <fstream>
#include <iterator>

#include "base/error.h"

namespace sluice {
namespace {

namespace json = boost::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Two trees over threads (a number) and dtype (a word): columns threads, dtype=a, dtype=b.
constexpr const char* kForest = R"({
  "format": "sluice-forest", "version": 1, "source": "by hand", "trained_on": 12,
  "features": [{"name": "threads", "kind": "number", "values": [1, 2, 8]},
               {"name": "dtype", "kind": "category", "values": ["a", "b"]}],
  "targets": [{"name": "speed", "scale": "linear", "cross_validated_r2": 0.9,
               "cross_validated_relative_error": 0.1,
    "trees": [{"column": [0, -2, 1, -2, -2], "threshold": [1.5, -2, 0.5, -2, -2],
               "left": [1, -1, 3, -1, -1], "right": [2, -1, 4, -1, -1],
               "value": [0, 10, 0, 20, 30]},
              {"column": [-2], "threshold": [-2], "left": [-1], "right": [-1], "value": [40]}]}]})";

std::string MessageOf(const std::string& text) {
  try {
    Forest::FromJson(text, "f.json");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "";
}

// kForest with one value of its first tree changed.
std::string Damaged(const char* key, int index, json::value value) {
  json::value root = json::parse(kForest);
  root.at("targets").at(0).at("trees").at(0).at(key).at(index) = std::move(value);
  return json::serialize(root);
}

std::string Without(const char* key) {
  json::object root = json::parse(kForest).as_object();
  root.erase(key);
  return json::serialize(root);
}

TEST(Forest, WalksItsTrees) {
  const Forest forest = Forest::FromJson(kForest, "f.json");
  const auto speed = [&](const char* threads, const char* dtype) {
    return forest.Predict({{"threads", threads}, {"dtype", dtype}})[0];
  };
  EXPECT_EQ(speed("1", "a").value, 25);
  EXPECT_EQ(speed("1.5", "b").value, 25);  // at the threshold: left
  EXPECT_EQ(speed("2", "b").value, 30);    // dtype=a is 0: left
  EXPECT_EQ(speed("2", "a").value, 35);
  EXPECT_EQ(speed("2", "a").low, 30);
  EXPECT_EQ(speed("2", "a").high, 40);
  EXPECT_EQ(forest.targets()[0].r2, 0.9);
  EXPECT_EQ(forest.trained_on(), 12);
}

TEST(Forest, ALogarithmIsTakenBack) {
  json::value root = json::parse(kForest);
  root.at("targets").at(0).at("scale") = "log";
  const Forest forest = Forest::FromJson(json::serialize(root), "f.json");
  EXPECT_NEAR(forest.Predict({{"threads", "1"}, {"dtype", "a"}})[0].value, std::exp(25.0), 1e-3);
}

TEST(Forest, SaysWhatItWasNotTrainedOn) {
  const Forest forest = Forest::FromJson(kForest, "f.json");
  EXPECT_THAT(forest.Outside({{"threads", "3"}, {"dtype", "a"}}), IsEmpty());
  EXPECT_THAT(forest.Outside({{"threads", "64"}, {"dtype", "a"}}),
              ElementsAre("threads is 64, trained on 1 to 8"));
  const auto message = [&](const Forest::Values& values) -> std::string {
    try {
      forest.Outside(values);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(message({{"threads", "1"}}), HasSubstr("no value for dtype: expected one of a, b"));
  EXPECT_THAT(message({{"threads", "1"}, {"dtype", "c"}}), HasSubstr("knows a, b"));
  EXPECT_THAT(message({{"threads", "x"}, {"dtype", "a"}}), HasSubstr("should be a number"));
  EXPECT_THAT(message({{"threads", "1"}, {"dtype", "a"}, {"z", "1"}}), HasSubstr("no feature"));
}

// tests/data/predictor was trained and evaluated by scikit-learn
// (tools/references/make_forest_reference.py).
TEST(Forest, PredictsWhatScikitLearnPredicts) {
  const std::string dir = std::string(SLUICE_SOURCE_DIR) + "/tests/data/predictor/";
  const Forest forest = Forest::Read(dir + "forest.json");
  std::ifstream file(dir + "expected.json");
  const json::value expected = json::parse(std::string((std::istreambuf_iterator<char>(file)), {}));
  const json::array& cases = expected.at("cases").as_array();
  ASSERT_EQ(cases.size(), 200u);
  for (size_t c = 0; c < cases.size(); ++c) {
    Forest::Values values;
    for (const auto& [name, value] : cases[c].as_object()) {
      values[name] = value.is_string() ? std::string(value.as_string()) : json::serialize(value);
    }
    EXPECT_THAT(forest.Outside(values), IsEmpty());
    const std::vector<ForestPrediction> predictions = forest.Predict(values);
    ASSERT_EQ(predictions.size(), 2u);
    for (const ForestPrediction& prediction : predictions) {
      const double wanted =
          expected.at("predicted").at(prediction.target).at(c).to_number<double>();
      EXPECT_NEAR(prediction.value, wanted, 1e-12 * std::abs(wanted) + 1e-15) << c;
      EXPECT_LE(prediction.low, prediction.value);
      EXPECT_GE(prediction.high, prediction.value);
    }
  }
}

TEST(Forest, RefusesWhatIsNotOne) {
  EXPECT_THAT(MessageOf("{"), HasSubstr("not JSON"));
  EXPECT_THAT(MessageOf("[]"), HasSubstr("not a JSON object"));
  for (const char* key : {"format", "version", "source", "trained_on", "features", "targets"}) {
    EXPECT_THAT(MessageOf(Without(key)), HasSubstr(key));
  }
  EXPECT_THAT(MessageOf(Damaged("left", 2, 2)), HasSubstr("leads back"));
  EXPECT_THAT(MessageOf(Damaged("right", 2, 0)), HasSubstr("leads back"));
  EXPECT_THAT(MessageOf(Damaged("right", 2, -1)), HasSubstr("leads back"));
  EXPECT_THAT(MessageOf(Damaged("left", 2, 5)), HasSubstr("left has 5, expected -1 to 4"));
  EXPECT_THAT(MessageOf(Damaged("left", 2, 3.5)), HasSubstr("left has 3.5"));
  EXPECT_THAT(MessageOf(Damaged("column", 0, 3)), HasSubstr("column has 3, expected -2 to 2"));
  EXPECT_THAT(MessageOf(Damaged("column", 0, -2)), HasSubstr("compares nothing"));
  EXPECT_THAT(MessageOf(Damaged("value", 0, "x")), HasSubstr("not a finite number"));
  EXPECT_THROW(Forest::Read("/absent/f.json"), Error);
}

}  // namespace
}  // namespace sluice
