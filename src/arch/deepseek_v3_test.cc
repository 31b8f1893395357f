#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "arch/registry.h"
#include "base/error.h"
#include "checkpoint/checkpoint.h"

namespace sluice {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::filesystem::path kGoldens = std::filesystem::path(SLUICE_SOURCE_DIR) / "tests/golden";

// The golden's spec with some keys replaced.
ModelSpec Changed(const std::string& overrides) {
  HfConfig config = HfConfig::FromFolder(kGoldens / "deepseek_v3");
  config.ApplyOverrides(overrides);
  return SpecFromConfig(config);
}

// The published model, its weights counted as if they were not quantised.
ModelSpec Published(const std::string& overrides = "{}") {
  HfConfig config =
      HfConfig::FromFolder(std::filesystem::path(SLUICE_SOURCE_DIR) / "configs/models/DeepSeek-V3");
  config.ApplyOverrides(R"({"quantization_config": null})");
  config.ApplyOverrides(overrides);
  return SpecFromConfig(config);
}

TEST(DeepseekV3, GoldenTablesEqualTheirFiles) {
  for (const char* name : {"deepseek_v3", "deepseek_v3_plain_q", "deepseek_v3_yarn_halves",
                           "deepseek_v3_no_shared", "deepseek_v3_native_heads"}) {
    SCOPED_TRACE(name);
    const ModelSpec spec = SpecFromConfig(HfConfig::FromFolder(kGoldens / name));
    const CheckpointSource source(Checkpoint::Open(kGoldens / name));
    EXPECT_NO_THROW(CheckTensors(spec, source));
    EXPECT_EQ(ListTensors(spec).size(), source.names().size());
  }
}

TEST(DeepseekV3, ReadsThePublishedModel) {
  const ModelSpec spec = Published();
  EXPECT_EQ(spec.attention.kind, AttentionKind::kLatent);
  EXPECT_EQ(spec.attention.num_heads, 128);
  EXPECT_EQ(spec.attention.head_dim, 192);
  EXPECT_EQ(spec.attention.latent.q_rank, 1536);
  EXPECT_EQ(spec.attention.latent.kv_rank, 512);
  EXPECT_EQ(spec.attention.latent.value_dim, 128);
  EXPECT_EQ(spec.attention.rope.rotary_dim, 64);
  EXPECT_EQ(spec.attention.rope.pairing, ops::RopePairing::kAdjacent);
  EXPECT_EQ(spec.attention.rope.scaling, ops::RopeScaling::kYarn);
  // mscale equals mscale_all_dim: the rotation keeps its length, the scores gain the square.
  EXPECT_DOUBLE_EQ(spec.attention.rope.attention_factor, 1.0);
  const double mscale = 0.1 * std::log(40.0) + 1.0;
  EXPECT_FLOAT_EQ(spec.attention.scale, static_cast<float>(mscale * mscale / std::sqrt(192.0)));
  EXPECT_EQ(spec.max_positions, 163840);

  EXPECT_EQ(spec.NumMoeLayers(), 58);
  EXPECT_EQ(spec.ffn[2], FfnKind::kDense);
  EXPECT_EQ(spec.ffn[3], FfnKind::kMoe);
  EXPECT_EQ(spec.moe.num_experts, 256);
  EXPECT_EQ(spec.moe.score, ops::RouterScore::kSigmoid);
  EXPECT_EQ(spec.moe.num_groups, 8);
  EXPECT_EQ(spec.moe.top_groups, 4);
  EXPECT_TRUE(spec.moe.choice_bias);
  EXPECT_TRUE(spec.moe.renormalize_topk);
  EXPECT_FLOAT_EQ(spec.moe.scale, 2.5f);
  EXPECT_EQ(spec.moe.shared_ffn, 2048);
  EXPECT_FALSE(spec.moe.shared_gate);
  // The model card says 671 billion, without the layer that predicts a second token.
  EXPECT_NEAR(static_cast<double>(ParameterCount(spec)) / 1e9, 671.03, 0.01);
  // The technical report says 37 billion active for each token.
  EXPECT_NEAR(static_cast<double>(ActiveBytesPerToken(spec, DType::kBF16)) / 2e9, 36.6, 0.1);
}

TEST(DeepseekV3, ShardsByHeadsAndReplicatesWhatIsOfLowRank) {
  const ModelSpec spec = Published();
  const auto rule = [&](TensorRole role) { return *FindRule(spec, role); };
  EXPECT_EQ(rule(TensorRole::kQA).shard, ShardAxis::kReplicate);
  EXPECT_EQ(rule(TensorRole::kQB).shard, ShardAxis::kRows);
  EXPECT_EQ(rule(TensorRole::kKvA).shard, ShardAxis::kReplicate);
  EXPECT_EQ(rule(TensorRole::kKvA).shape, (Shape{576, 7168}));
  EXPECT_EQ(rule(TensorRole::kKvB).shard, ShardAxis::kRows);
  EXPECT_EQ(rule(TensorRole::kKvB).shape, (Shape{32768, 512}));
  EXPECT_EQ(rule(TensorRole::kO).shard, ShardAxis::kColumns);
  EXPECT_EQ(rule(TensorRole::kO).shape, (Shape{7168, 16384}));
  EXPECT_TRUE(rule(TensorRole::kKvB).quantizable);
  EXPECT_FALSE(rule(TensorRole::kRouterBias).quantizable);
  EXPECT_EQ(TensorName(rule(TensorRole::kSharedUp), 4, 0),
            "model.layers.4.mlp.shared_experts.up_proj.weight");
}

TEST(DeepseekV3, ReadsItsOptions) {
  const ModelSpec plain = Changed(R"({"q_lora_rank":null,"rope_interleave":false,
                                      "attention_bias":true,"n_shared_experts":0})");
  EXPECT_EQ(FindRule(plain, TensorRole::kQ)->shape, (Shape{128, 64}));
  EXPECT_EQ(FindRule(plain, TensorRole::kQA), nullptr);
  EXPECT_EQ(FindRule(plain, TensorRole::kQABias), nullptr);
  EXPECT_EQ(FindRule(plain, TensorRole::kKvABias)->shape, (Shape{40}));
  EXPECT_EQ(FindRule(plain, TensorRole::kOBias)->shape, (Shape{64}));
  EXPECT_EQ(plain.attention.rope.pairing, ops::RopePairing::kHalves);
  EXPECT_EQ(FindRule(plain, TensorRole::kSharedUp), nullptr);
  EXPECT_EQ(Changed(R"({"n_shared_experts":3})").moe.shared_ffn, 96);
  const FfnKind dense = FfnKind::kDense;
  const FfnKind moe = FfnKind::kMoe;
  EXPECT_THAT(Changed(R"({"num_hidden_layers":6,"moe_layer_freq":2})").ffn,
              ElementsAre(dense, dense, moe, dense, moe, dense));
  EXPECT_THAT(Changed(R"({"first_k_dense_replace":3})").ffn, Each(dense));
}

TEST(DeepseekV3, ReadsHowExpertsAreChosen) {
  const ModelSpec greedy =
      Changed(R"({"topk_method":"greedy","scoring_func":"softmax","n_group":1,"topk_group":1})");
  EXPECT_EQ(greedy.moe.score, ops::RouterScore::kSoftmax);
  EXPECT_FALSE(greedy.moe.choice_bias);
  EXPECT_EQ(FindRule(greedy, TensorRole::kRouterBias), nullptr);
  const ModelSpec sigmoid = Changed(R"({"topk_method":"greedy","n_group":null,"topk_group":null})");
  EXPECT_EQ(sigmoid.moe.score, ops::RouterScore::kSigmoid);
  EXPECT_EQ(sigmoid.moe.num_groups, 1);
}

TEST(DeepseekV3, IgnoresTheLayersThatPredictFurtherTokens) {
  const ModelSpec spec = Changed(R"({"num_nextn_predict_layers":2})");
  std::vector<DummySource::Listed> tensors = ListTensors(spec);
  tensors.push_back({"model.layers.3.eh_proj.weight", {64, 128}});
  tensors.push_back({"model.layers.4.mlp.experts.0.up_proj.weight", {32, 64}});
  EXPECT_NO_THROW(CheckTensors(spec, DummySource(tensors, DType::kF32, 0)));
  tensors.push_back({"model.layers.30.eh_proj.weight", {64, 128}});
  EXPECT_THROW(CheckTensors(spec, DummySource(tensors, DType::kF32, 0)), Error);
}

struct Refusal {
  const char* overrides;
  const char* message;
};

class DeepseekV3Refuses : public ::testing::TestWithParam<Refusal> {};

TEST_P(DeepseekV3Refuses, NamingTheKey) {
  try {
    Changed(GetParam().overrides);
    FAIL() << "accepted " << GetParam().overrides;
  } catch (const Error& error) {
    EXPECT_NE(error.code(), ErrorCode::kInternal) << error.what();
    EXPECT_THAT(error.what(), HasSubstr(GetParam().message));
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, DeepseekV3Refuses,
    ::testing::Values(
        Refusal{R"({"topk_method":"group_limited_greedy"})", "\"topk_method\" is"},
        Refusal{R"({"topk_method":"greedy"})", "\"n_group\" is 4"},
        Refusal{R"({"scoring_func":"softmax"})", "\"scoring_func\" is \"softmax\""},
        Refusal{R"({"scoring_func":"tanh"})", "\"scoring_func\" is \"tanh\""},
        Refusal{R"({"n_group":3})", "moe.num_groups is 3"},
        Refusal{R"({"n_group":16})", "moe.num_groups is 16"},
        Refusal{R"({"n_group":0})", "moe.num_groups is 0"},
        Refusal{R"({"n_group":8,"topk_group":1})", "moe.top_groups is 1"},
        Refusal{R"({"topk_group":5})", "moe.top_groups is 5"},
        Refusal{R"({"kv_lora_rank":0})", "attention.latent.kv_rank is 0"},
        Refusal{R"({"kv_lora_rank":20})", "attention.latent.kv_rank is 20"},
        Refusal{R"({"kv_lora_rank":null})", "\"kv_lora_rank\" should be an integer"},
        Refusal{R"({"qk_rope_head_dim":12,"head_dim":null,"qk_head_dim":null})",
                "attention.latent.rope_dim is 12"},
        Refusal{R"({"qk_nope_head_dim":2000000000,"qk_head_dim":null})", "nope_dim is 2000000000"},
        Refusal{R"({"v_head_dim":0})", "attention.latent.value_dim is 0"},
        Refusal{R"({"head_dim":32})", "\"head_dim\" is 32"},
        Refusal{R"({"qk_head_dim":16})", "\"qk_head_dim\" is 16"},
        Refusal{R"({"num_key_value_heads":2})", "num_kv_heads is 2"},
        Refusal{R"({"num_attention_heads":0,"num_key_value_heads":null})", "num_heads is 0"},
        Refusal{R"({"moe_layer_freq":0})", "\"moe_layer_freq\" is 0"},
        Refusal{R"({"n_shared_experts":100000})", "\"n_shared_experts\" is 100000"},
        Refusal{R"({"routed_scaling_factor":0})", "moe.scale is 0"},
        Refusal{R"({"partial_rotary_factor":0.5})", "rotary_dim is 8"}));

}  // namespace
}  // namespace sluice
