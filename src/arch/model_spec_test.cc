#include "arch/model_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "arch/registry.h"
#include "base/error.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;

ModelSpec Spec() {
  return SpecFromConfig(
      HfConfig::FromFolder(std::string(SLUICE_SOURCE_DIR) + "/tests/golden/qwen2_moe"));
}

template <class Call>
void ExpectFails(const Call& call, ErrorCode code, const std::string& message) {
  try {
    call();
    FAIL() << "expected an Error with: " << message;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    EXPECT_THAT(error.what(), HasSubstr(message));
  }
}

TEST(ModelSpec, NamesTensorsAndTheirSharding) {
  const ModelSpec spec = Spec();
  const TensorRule& down = *FindRule(spec, TensorRole::kExpertDown);
  EXPECT_EQ(TensorName(down, 2, 7), "model.layers.2.mlp.experts.7.down_proj.weight");
  EXPECT_EQ(down.shard, ShardAxis::kColumns);
  EXPECT_TRUE(down.quantizable);
  const TensorRule& router = *FindRule(spec, TensorRole::kRouter);
  EXPECT_EQ(router.shard, ShardAxis::kReplicate);
  EXPECT_FALSE(router.quantizable);
  EXPECT_EQ(TensorName(*FindRule(spec, TensorRole::kFinalNorm), 0, 0), "model.norm.weight");
}

TEST(ModelSpec, ActiveBytesCountTopKAndOneEmbeddingRow) {
  const ModelSpec spec = Spec();
  const uint64_t expert = 3 * 64 * 48;
  const uint64_t idle = 3 * (8 - 4) * expert;
  const uint64_t embedding = 512 * 64;
  EXPECT_EQ(ActiveBytesPerToken(spec, DType::kF32),
            4 * (ParameterCount(spec) - idle - embedding + 64));
}

TEST(ModelSpec, ValidateNamesTheField) {
  const auto expect = [](auto&& change, const std::string& message) {
    ModelSpec spec = Spec();
    EXPECT_NO_THROW(Validate(spec));
    change(spec);
    ExpectFails([&] { Validate(spec); }, ErrorCode::kUnsupported, message);
  };
  expect([](ModelSpec& s) { s.attention.mask = ops::AttentionMask::kTree; }, "attention.mask");
  expect([](ModelSpec& s) { s.attention.windowed.assign(s.num_layers, true); }, "attention.window");
  expect([](ModelSpec& s) { s.attention.windowed = {false}; }, "attention.windowed");
  expect(
      [](ModelSpec& s) {
        s.attention.windowed.assign(s.num_layers, true);
        s.attention.window = 4;
        s.attention.mask = ops::AttentionMask::kFull;
      },
      "attention.mask");
  expect([](ModelSpec& s) { s.attention.window = 4; }, "attention.window");
  expect([](ModelSpec& s) { s.attention.clip_qkv = -1.0f; }, "attention.clip_qkv");
  expect([](ModelSpec& s) { s.attention.rope.rotary_dim = 7; }, "rotary_dim");
  expect([](ModelSpec& s) { s.attention.rope.factor = 0; }, "rope.factor");
  expect([](ModelSpec& s) { s.attention.rope.scaling = ops::RopeScaling::kYarn; },
         "rope.original_positions");
  expect([](ModelSpec& s) { s.attention.scale = 0.0f; }, "attention.scale");
  expect([](ModelSpec& s) { s.moe.shared_ffn = 0; }, "moe.shared_gate");
  expect([](ModelSpec& s) { s.moe.scale = 0.0f; }, "moe.scale");
  expect([](ModelSpec& s) { s.ffn.pop_back(); }, "ffn");
  expect([](ModelSpec& s) { s.tie_embeddings = true; }, "tie_embeddings");
  expect([](ModelSpec& s) { s.tensors.push_back(s.tensors[0]); }, "twice");
  expect([](ModelSpec& s) { s.tensors[0].name += "{layer}"; }, "{layer}");
}

TEST(ModelSpec, CheckTensorsComparesBothWays) {
  const ModelSpec spec = Spec();
  const std::vector<DummySource::Listed> sound = ListTensors(spec);
  const auto check = [&](const std::vector<DummySource::Listed>& tensors) {
    CheckTensors(spec, DummySource(tensors, DType::kF32, 0));
  };
  EXPECT_NO_THROW(check(sound));

  auto tensors = sound;
  tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", {8}});
  EXPECT_NO_THROW(check(tensors));
  tensors.push_back({"model.layers.0.self_attn.q_norm.weight", {16}});
  ExpectFails([&] { check(tensors); }, ErrorCode::kDataLoss, "self_attn.q_norm.weight");

  tensors = sound;
  tensors.erase(tensors.begin(), tensors.begin() + 8);
  ExpectFails([&] { check(tensors); }, ErrorCode::kDataLoss, "8 tensor(s)");
  ExpectFails([&] { check(tensors); }, ErrorCode::kDataLoss, "and 3 more");

  tensors = sound;
  tensors[0].shape = {512, 32};
  ExpectFails([&] { check(tensors); }, ErrorCode::kDataLoss, "is [512, 32], expected [512, 64]");
}

TEST(ModelSpec, TiedModelsIgnoreACopyOfTheHead) {
  HfConfig config =
      HfConfig::FromFolder(std::string(SLUICE_SOURCE_DIR) + "/tests/golden/llama_dense");
  config.ApplyOverrides(R"({"tie_word_embeddings":true})");
  const ModelSpec spec = SpecFromConfig(config);
  auto tensors = ListTensors(spec);
  tensors.push_back({"lm_head.weight", {512, 64}});
  EXPECT_NO_THROW(CheckTensors(spec, DummySource(tensors, DType::kF32, 0)));
}

}  // namespace
}  // namespace sluice
