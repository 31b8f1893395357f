#include "checkpoint/yaml.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/serialize.hpp>

#include "base/error.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;

std::string AsJson(std::string_view text) {
  return boost::json::serialize(YamlToJson(LoadYaml(text, "file.yaml")));
}

std::string MessageOf(std::string_view text) {
  try {
    LoadYaml(text, "file.yaml");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  ADD_FAILURE() << "was taken";
  return "";
}

TEST(YamlTest, ScalarsAreReadAsYaml12ReadsThem) {
  EXPECT_EQ(AsJson("[1, -2, 3.5, true, False, ~, null, word, \"7\", 'true', 1e999]"),
            R"([1,-2,3.5E0,true,false,null,null,"word","7","true","1e999"])");
}

TEST(YamlTest, AliasesStandForWhatTheyName) {
  EXPECT_EQ(AsJson("a: &x {k: [1]}\nb: *x\n"), R"({"a":{"k":[1]},"b":{"k":[1]}})");
}

TEST(YamlTest, AliasesThatMultiplyAreRefused) {
  std::string text = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n";
  for (int i = 1; i <= 9; ++i) {
    const std::string before = "*a" + std::to_string(i - 1);
    text += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [" + before;
    for (int k = 1; k < 9; ++k) text += ", " + before;
    text += "]\n";
  }
  EXPECT_THAT(MessageOf(text), HasSubstr("file.yaml: stands for more than 65536 values"));
}

TEST(YamlTest, AnAliasOfItselfIsRefused) {
  EXPECT_THAT(MessageOf("a: &a [*a]\n"), HasSubstr("nested more than 16 levels"));
}

TEST(YamlTest, DeepNestingIsRefused) {
  EXPECT_THAT(MessageOf(std::string(18, '[') + std::string(18, ']')),
              HasSubstr("nested more than 16 levels"));
  EXPECT_THAT(MessageOf(std::string(100'000, '[')), HasSubstr("file.yaml: is not valid YAML"));
}

TEST(YamlTest, KeysAreScalars) {
  EXPECT_THAT(MessageOf("? [a, b]\n: 1\n"), HasSubstr("a key that is not a plain word"));
}

TEST(YamlTest, TooLargeATextIsRefused) {
  EXPECT_THAT(MessageOf(std::string((1 << 20) + 1, '#')), HasSubstr("too large"));
}

}  // namespace
}  // namespace sluice
