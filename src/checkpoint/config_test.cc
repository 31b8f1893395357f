#include "checkpoint/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "checkpoint/testing.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;

template <class Call>
void ExpectFails(const Call& call, const std::string& message) {
  try {
    call();
    FAIL() << "expected an Error with: " << message;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(error.what(), HasSubstr(message));
  }
}

TEST(HfConfig, GettersReadAndRefuseByType) {
  const HfConfig config = HfConfig::FromJson(
      R"({"i":3,"w":1e3,"f":0.5,"b":true,"s":"x","n":null,"l":[1,2],"t":["a"],"o":{"k":"v"}})",
      "c.json");
  EXPECT_EQ(config.Int("i"), 3);
  EXPECT_EQ(config.Int("w"), 1000);
  EXPECT_EQ(config.Float("i"), 3.0);
  EXPECT_EQ(config.Float("f"), 0.5);
  EXPECT_TRUE(config.Bool("b"));
  EXPECT_EQ(config.String("s"), "x");
  EXPECT_EQ(config.IntList("l"), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(config.StringList("t"), (std::vector<std::string>{"a"}));
  EXPECT_EQ(config.Object("o").String("k"), "v");
  EXPECT_FALSE(config.OptInt("n").has_value());
  EXPECT_FALSE(config.OptInt("absent").has_value());
  ExpectFails([&] { config.Int("f"); }, "c.json: \"f\" should be an integer, but is 5E-1");
  ExpectFails([&] { config.Int("absent"); }, "\"absent\" should be an integer, but is nothing");
  ExpectFails([&] { config.OptBool("i"); }, "\"i\" should be true or false, but is 3");
  ExpectFails([&] { config.IntList("t"); }, "\"t\" should be a list of integers, but is [\"a\"]");
  ExpectFails([&] { config.Object("o").Int("k"); }, "\"o.k\" should be an integer");
}

TEST(HfConfig, BothDialectsReadAlike) {
  const HfConfig four = HfConfig::FromJson(
      R"({"rope_theta":1e6,"rope_scaling":{"type":"yarn","factor":4},"num_local_experts":8,)"
      R"("torch_dtype":"bfloat16"})",
      "four");
  const HfConfig five = HfConfig::FromJson(
      R"({"rope_parameters":{"rope_theta":1e6,"rope_type":"yarn","factor":4},"num_experts":8,)"
      R"("dtype":"bfloat16"})",
      "five");
  for (const HfConfig* config : {&four, &five}) {
    EXPECT_EQ(config->Object("rope_parameters").Float("rope_theta"), 1e6);
    EXPECT_EQ(config->Object("rope_parameters").String("rope_type"), "yarn");
    EXPECT_EQ(config->Int("num_experts"), 8);
    EXPECT_EQ(config->String("dtype"), "bfloat16");
  }
  const HfConfig null_scaling = HfConfig::FromJson(R"({"rope_theta":5,"rope_scaling":null})", "c");
  EXPECT_EQ(null_scaling.Object("rope_parameters").Float("rope_theta"), 5.0);
  ExpectFails([] { HfConfig::FromJson(R"({"num_experts":8,"num_local_experts":9})", "c"); },
              "name the same thing");
  ExpectFails(
      [] { HfConfig::FromJson(R"({"rope_theta":1,"rope_parameters":{"rope_theta":2}})", "c"); },
      "name the same thing");
}

TEST(HfConfig, OverridesMergeInEitherDialect) {
  HfConfig config = HfConfig::FromJson(
      R"({"num_local_experts":8,"rope_parameters":{"rope_theta":10000.0,"rope_type":"default"}})",
      "c");
  config.ApplyOverrides(R"({"num_experts":4,"rope_theta":500000.0,"num_hidden_layers":2})");
  EXPECT_EQ(config.Int("num_experts"), 4);
  EXPECT_EQ(config.Int("num_hidden_layers"), 2);
  EXPECT_EQ(config.Object("rope_parameters").Float("rope_theta"), 500000.0);
  EXPECT_EQ(config.Object("rope_parameters").String("rope_type"), "default");
  ExpectFails([&] { config.ApplyOverrides("[1]"); }, "--hf-overrides");
  ExpectFails([&] { config.ApplyOverrides("{"); }, "--hf-overrides");
}

TEST(HfConfig, ANullOverrideUnsetsItsKeyInEitherDialect) {
  HfConfig config = HfConfig::FromJson(
      R"({"torch_dtype":"float16","rope_theta":5,"rope_scaling":{"type":"linear","factor":2}})",
      "c");
  config.ApplyOverrides(R"({"torch_dtype":null,"rope_scaling":null})");
  EXPECT_FALSE(config.Has("dtype"));
  EXPECT_FALSE(config.Object("rope_parameters").Has("rope_type"));
  EXPECT_FALSE(config.Object("rope_parameters").Has("factor"));
  EXPECT_EQ(config.Object("rope_parameters").Float("rope_theta"), 5.0);
  config.ApplyOverrides(R"({"rope_parameters":null})");
  EXPECT_FALSE(config.Has("rope_parameters"));
}

TEST(HfConfig, ReadsATopologyInYaml) {
  const HfConfig config = HfConfig::FromTopologyYaml(
      "model_type: qwen3_moe\nhidden_size: 64\nrms_norm_eps: 1e-6\ntie_word_embeddings: true\n"
      "mlp_only_layers: [0, 2]\nsliding_window: null\nrope_theta: 10000.0\nname: \"12\"\n",
      "t.yaml");
  EXPECT_EQ(config.String("model_type"), "qwen3_moe");
  EXPECT_EQ(config.Int("hidden_size"), 64);
  EXPECT_EQ(config.Float("rms_norm_eps"), 1e-6);
  EXPECT_TRUE(config.Bool("tie_word_embeddings"));
  EXPECT_EQ(config.IntList("mlp_only_layers"), (std::vector<int64_t>{0, 2}));
  EXPECT_FALSE(config.Has("sliding_window"));
  EXPECT_EQ(config.Object("rope_parameters").Float("rope_theta"), 10000.0);
  EXPECT_EQ(config.String("name"), "12");
  ExpectFails([] { HfConfig::FromTopologyYaml("a: [", "t"); }, "not valid YAML");
  ExpectFails([] { HfConfig::FromTopologyYaml("- 1", "t"); }, "config.json's keys");
}

TEST(HfConfig, RemembersWhatWasRead) {
  const HfConfig config = HfConfig::FromJson(R"({"a":1,"b":2,"c":null,"d":4})", "c");
  config.Int("a");
  config.OptInt("d");
  EXPECT_EQ(config.UnreadKeys(), std::vector<std::string>{"b"});
}

TEST(HfConfig, FilesThatAreMissingOrNotJson) {
  const testing::TemporaryFolder folder("config");
  EXPECT_THROW(HfConfig::FromFolder(folder.path()), Error);
  folder.Write("config.json", "not json");
  ExpectFails([&] { HfConfig::FromFolder(folder.path()); }, "not valid JSON");
  folder.Write("config.json", "[]");
  ExpectFails([&] { HfConfig::FromFolder(folder.path()); }, "expected a JSON object");
}

}  // namespace
}  // namespace sluice
