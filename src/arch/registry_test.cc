#include "arch/registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "arch/testing.h"
#include "base/error.h"
#include "checkpoint/checkpoint.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::filesystem::path kGoldens = std::filesystem::path(SLUICE_SOURCE_DIR) / "tests/golden";

HfConfig Golden(const std::string& name) {
  return HfConfig::FromFolder(kGoldens / name);
}

HfConfig Model(const std::string& name) {
  return HfConfig::FromFolder(std::filesystem::path(SLUICE_SOURCE_DIR) / "configs/models" / name);
}

// The spec of a golden's config with some keys replaced.
ModelSpec Changed(const std::string& golden, const std::string& overrides) {
  HfConfig config = Golden(golden);
  config.ApplyOverrides(overrides);
  return SpecFromConfig(config);
}

TEST(Registry, GoldenTablesEqualTheirFiles) {
  const std::vector<std::string> goldens = GoldenNames(kGoldens);
  EXPECT_GE(goldens.size(), 28u);
  for (const std::string& name : goldens) {
    const ModelSpec spec = SpecFromConfig(Golden(name));
    const CheckpointSource source(Checkpoint::Open(kGoldens / name), spec.block_scaled);
    EXPECT_NO_THROW(CheckTensors(spec, source)) << name;
    EXPECT_EQ(ListTensors(spec).size(), source.names().size()) << name;
    uint64_t elements = 0;
    for (const std::string& tensor : source.names()) {
      elements += static_cast<uint64_t>(source.shape(tensor).NumElements());
    }
    EXPECT_EQ(ParameterCount(spec), elements) << name;
  }
}

TEST(Registry, StorytellerIsTied) {
  const std::filesystem::path folder =
      std::filesystem::path(SLUICE_SOURCE_DIR) / "models/storyteller";
  const HfConfig generation = HfConfig::FromFile(folder / "generation_config.json");
  const ModelSpec spec = SpecFromConfig(HfConfig::FromFolder(folder), &generation);
  EXPECT_TRUE(spec.tie_embeddings);
  EXPECT_EQ(FindRule(spec, TensorRole::kLmHead), nullptr);
  EXPECT_THAT(spec.eos_token_ids, ElementsAre(4095, 4093));
  EXPECT_NO_THROW(CheckTensors(spec, CheckpointSource(Checkpoint::Open(folder))));
}

TEST(Registry, ReadsQwen3) {
  const ModelSpec spec = SpecFromConfig(Model("Qwen3-30B-A3B"));
  EXPECT_EQ(spec.attention.num_heads, 32);
  EXPECT_EQ(spec.attention.num_kv_heads, 4);
  EXPECT_EQ(spec.attention.head_dim, 128);
  EXPECT_EQ(spec.attention.qk_norm, ops::QkNorm::kPerHead);
  EXPECT_FALSE(spec.attention.qkv_bias);
  EXPECT_EQ(spec.attention.rope.theta, 1e6);
  EXPECT_EQ(spec.attention.rope.rotary_dim, 128);
  EXPECT_FLOAT_EQ(spec.attention.scale, 0.088388348f);
  EXPECT_EQ(spec.moe.num_experts, 128);
  EXPECT_EQ(spec.moe.top_k, 8);
  EXPECT_TRUE(spec.moe.renormalize_topk);
  EXPECT_EQ(spec.moe.shared_ffn, 0);
  EXPECT_EQ(spec.NumMoeLayers(), 48);
  EXPECT_EQ(spec.checkpoint_dtype, DType::kBF16);
  EXPECT_THAT(spec.eos_token_ids, ElementsAre(151645));
  // The model card says 30.5 billion, 3.3 billion of them active.
  EXPECT_EQ(ParameterCount(spec), 30'532'122'624u);
  EXPECT_EQ(WeightBytes(spec, DType::kBF16), 61'064'245'248u);
  EXPECT_NEAR(static_cast<double>(ActiveBytesPerToken(spec, DType::kBF16)) / 2e9, 3.04, 0.02);
}

TEST(Registry, ReadsQwen2) {
  const ModelSpec spec = SpecFromConfig(Model("Qwen1.5-MoE-A2.7B"));
  EXPECT_TRUE(spec.attention.qkv_bias);
  EXPECT_FALSE(spec.attention.output_bias);
  EXPECT_EQ(spec.attention.qk_norm, ops::QkNorm::kNone);
  EXPECT_EQ(spec.attention.head_dim, 128);
  EXPECT_EQ(spec.moe.num_experts, 60);
  EXPECT_FALSE(spec.moe.renormalize_topk);
  EXPECT_EQ(spec.moe.shared_ffn, 5632);
  EXPECT_TRUE(spec.moe.shared_gate);
  EXPECT_EQ(FindRule(spec, TensorRole::kSharedExpertGate)->shape, (Shape{1, 2048}));
  // The model card says 14.3 billion.
  EXPECT_NEAR(static_cast<double>(ParameterCount(spec)) / 1e9, 14.3, 0.05);
}

TEST(Registry, SparseLayersFollowStepAndList) {
  ModelSpec spec = Changed("qwen2_moe", R"({"num_hidden_layers":6,"decoder_sparse_step":2,
                               "mlp_only_layers":[3],"norm_topk_prob":true,"qkv_bias":false,
                               "layer_types":null})");
  const FfnKind dense = FfnKind::kDense;
  const FfnKind moe = FfnKind::kMoe;
  EXPECT_THAT(spec.ffn, ElementsAre(dense, moe, dense, dense, dense, moe));
  EXPECT_TRUE(spec.moe.renormalize_topk);
  EXPECT_EQ(FindRule(spec, TensorRole::kQBias), nullptr);
  EXPECT_EQ(FindRule(spec, TensorRole::kGate)->shape, (Shape{128, 64}));
  const HfConfig none = [] {
    HfConfig config = Golden("qwen3_moe");
    config.ApplyOverrides(R"({"num_experts":0})");
    return config;
  }();
  EXPECT_EQ(SpecFromConfig(none).NumMoeLayers(), 0);
}

TEST(Registry, Llama) {
  const ModelSpec spec =
      Changed("llama_dense", R"({"attention_bias":true,"mlp_bias":true,"head_dim":null,
                                 "num_key_value_heads":2,"tie_word_embeddings":true})");
  EXPECT_EQ(spec.attention.head_dim, 16);
  EXPECT_EQ(FindRule(spec, TensorRole::kK)->shape, (Shape{32, 64}));
  EXPECT_EQ(FindRule(spec, TensorRole::kOBias)->shape, (Shape{64}));
  EXPECT_EQ(FindRule(spec, TensorRole::kUpBias)->shape, (Shape{128}));
  EXPECT_EQ(FindRule(spec, TensorRole::kLmHead), nullptr);
  EXPECT_THAT(spec.eos_token_ids, ElementsAre(2));
  EXPECT_EQ(
      Changed("llama_dense", R"({"rope_parameters":{"rope_theta":null}})").attention.rope.theta,
      10000.0);
}

TEST(Registry, ReadsModelsThatDenoise) {
  const ModelSpec dense = SpecFromConfig(Model("LLaDA-8B-Instruct"));
  EXPECT_EQ(dense.attention.mask, ops::AttentionMask::kFull);
  EXPECT_EQ(dense.attention.head_dim, 128);
  EXPECT_EQ(dense.attention.rope.theta, 500000.0);
  EXPECT_EQ(dense.checkpoint_dtype, DType::kBF16);
  EXPECT_EQ(dense.NumMoeLayers(), 0);
  // What the published files hold: 16,031,162,368 bytes.
  EXPECT_EQ(WeightBytes(dense, DType::kBF16), 16'031'162'368u);

  const ModelSpec sparse = SpecFromConfig(Model("LLaDA-MoE-7B-A1B-Instruct"));
  EXPECT_EQ(sparse.attention.mask, ops::AttentionMask::kFull);
  EXPECT_EQ(sparse.attention.qk_norm, ops::QkNorm::kPerHead);
  EXPECT_EQ(sparse.NumMoeLayers(), 16);
  EXPECT_FALSE(sparse.moe.renormalize_topk);
  EXPECT_EQ(FindRule(sparse, TensorRole::kGate), nullptr);
  // The hub counts 7,356,880,896.
  EXPECT_EQ(ParameterCount(sparse), 7'356'880'896u);
}

TEST(Registry, WindowsFollowEachFamilysRule) {
  EXPECT_THAT(SpecFromConfig(Golden("qwen2_window_tied")).attention.windowed,
              ElementsAre(false, true, true));
  EXPECT_THAT(SpecFromConfig(Golden("qwen3_yarn_window")).attention.windowed,
              ElementsAre(true, false, true));
  const ModelSpec alternate = Changed("qwen2_moe_window", R"({"layer_types":null})");
  EXPECT_THAT(alternate.attention.windowed, ElementsAre(true, false, true, false));
  EXPECT_EQ(alternate.attention.window, 6);
  EXPECT_TRUE(SpecFromConfig(Golden("qwen3_moe_window")).IsWindowed(2));
  EXPECT_TRUE(SpecFromConfig(Golden("mixtral_window_yarn")).IsWindowed(0));
  const ModelSpec none = Changed("mixtral_window_yarn", R"({"sliding_window":null})");
  EXPECT_FALSE(none.IsWindowed(0));
  EXPECT_EQ(none.attention.window, 0);
}

TEST(Registry, Dbrx) {
  const ModelSpec spec = SpecFromConfig(Golden("dbrx_pnorm"));
  EXPECT_EQ(spec.norm, ops::NormKind::kLayer);
  EXPECT_EQ(spec.attention.rope.theta, 5e5);  // of attn_config
  EXPECT_EQ(spec.moe.topk_norm, 2.0f);
  const TensorRule& down = *FindRule(spec, TensorRole::kExpertDown);
  EXPECT_TRUE(down.stacked_experts && down.transposed);
  EXPECT_EQ(TensorShape(spec, down), (Shape{6 * 40, 48}));
  EXPECT_EQ(SpecFromConfig(Golden("dbrx")).attention.rope.theta, 1e4);  // of rope_parameters
  EXPECT_FALSE(SpecFromConfig(Golden("dbrx_no_norm")).moe.renormalize_topk);
  EXPECT_TRUE(Changed("dbrx", R"({"ffn_config":{"ffn_act_fn":null}})").moe.renormalize_topk);
}

TEST(Registry, ReadsTheFamiliesConfigs) {
  const auto billions = [](const char* name) {
    return static_cast<double>(ParameterCount(SpecFromConfig(Model(name)))) / 1e9;
  };
  // As the model cards say.
  EXPECT_NEAR(billions("Qwen2-57B-A14B"), 57.4, 0.05);
  EXPECT_NEAR(billions("OLMoE-1B-7B-0924"), 6.9, 0.05);
  EXPECT_NEAR(billions("Mixtral-8x7B-v0.1"), 46.7, 0.05);
  EXPECT_NEAR(billions("DBRX"), 131.6, 0.1);
  EXPECT_EQ(SpecFromConfig(Model("DBRX")).attention.clip_qkv, 8.0f);
  EXPECT_EQ(SpecFromConfig(Model("OLMoE-1B-7B-0924")).attention.qk_norm, ops::QkNorm::kFullWidth);
}

TEST(Registry, Fp8) {
  const ModelSpec spec = SpecFromConfig(Golden("qwen3_moe_fp8_odd"));
  ASSERT_TRUE(spec.block_scaled.has_value());
  EXPECT_EQ(spec.block_scaled->block_rows, 128);
  EXPECT_FALSE(Changed("qwen3_moe_fp8", R"({"quantization_config":null})").block_scaled);
}

TEST(Registry, EndOfSequenceIds) {
  EXPECT_TRUE(SpecFromConfig(Golden("qwen3_moe")).eos_token_ids.empty());
  const HfConfig generation = HfConfig::FromJson(R"({"eos_token_id":[7,9]})", "g");
  EXPECT_THAT(SpecFromConfig(Golden("llama_dense"), &generation).eos_token_ids, ElementsAre(7, 9));
  EXPECT_THROW(Changed("llama_dense", R"({"eos_token_id":"</s>"})"), Error);
  EXPECT_THROW(Changed("llama_dense", R"({"eos_token_id":-1})"), Error);
}

TEST(Registry, AnUnknownKeyIsRefusedUnlessItSwitchesNothingOn) {
  for (const char* off : {"null", "false", "0", "0.0", "\"\"", "[]", "{}"}) {
    EXPECT_NO_THROW(Changed("qwen3_moe", std::string(R"({"frobnicate":)") + off + "}")) << off;
  }
  EXPECT_NO_THROW(Changed("qwen3_moe", R"({"use_cache":true,"temperature":0.7})"));
}

struct Refusal {
  const char* golden;
  const char* overrides;
  const char* message;
};

class RegistryRefuses : public ::testing::TestWithParam<Refusal> {};

TEST_P(RegistryRefuses, NamingTheKey) {
  try {
    Changed(GetParam().golden, GetParam().overrides);
    FAIL() << "accepted " << GetParam().overrides;
  } catch (const Error& error) {
    EXPECT_NE(error.code(), ErrorCode::kInternal) << error.what();
    EXPECT_THAT(error.what(), HasSubstr(GetParam().message));
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, RegistryRefuses,
    ::testing::Values(
        Refusal{"qwen3_moe", R"({"model_type":"gpt2"})",
                "dbrx, deepseek_v3, llada, llama, mixtral, olmoe, qwen2, qwen2_moe, qwen3, "
                "qwen3_moe"},
        Refusal{"qwen3_moe", R"({"hidden_act":"gelu"})", "\"hidden_act\" is \"gelu\""},
        Refusal{"qwen3_moe", R"({"rope_scaling":{"type":"dynamic","factor":4.0}})",
                "not \"dynamic\""},
        Refusal{"qwen3_moe", R"({"rope_scaling":{"type":"yarn","factor":4.0,"attn":1}})",
                "\"attn\""},
        Refusal{"qwen3_moe", R"({"rope_scaling":{"type":"yarn","factor":-4.0}})", "factor\" is -4"},
        Refusal{"qwen3_moe", R"({"partial_rotary_factor":1.5})", "partial_rotary_factor"},
        Refusal{"llama_dense",
                R"({"rope_scaling":{"type":"llama3","factor":8,"low_freq_factor":4,
                    "high_freq_factor":4}})",
                "high_freq_factor is 4"},
        Refusal{"llama_dense", R"({"rope_parameters":{"rope_type":"llama3"}})",
                "\"rope_parameters.factor\" should be a number"},
        Refusal{"llama_dense", R"({"rope_parameters":{"factor":8}})", "\"factor\""},
        Refusal{"llama_dense", R"({"sliding_window":8})", "\"sliding_window\" is 8"},
        Refusal{"qwen2_moe", R"({"use_sliding_window":true,"sliding_window":0,"layer_types":null})",
                "attention.window is 0"},
        Refusal{"qwen2_moe", R"({"layer_types":["full_attention"]})", "one for each of 3 layers"},
        Refusal{"qwen2_moe", R"({"layer_types":["chunked_attention"]})", "chunked_attention"},
        Refusal{"qwen2_window_tied", R"({"use_sliding_window":false,"layer_types":
                ["sliding_attention","full_attention","full_attention"]})",
                "needs \"use_sliding_window\": true"},
        Refusal{"qwen3_moe", R"({"layer_types":["sliding_attention","full_attention",
                "full_attention"]})",
                "in this family"},
        Refusal{"qwen3_moe", R"({"quantization_config":{"quant_method":"fp8"}})",
                "weight_block_size"},
        Refusal{"qwen3_moe", R"({"quantization_config":{"quant_method":"gptq","bits":4}})", "gptq"},
        Refusal{"qwen3_moe_fp8", R"({"quantization_config":{"fmt":"e5m2"}})", "e4m3"},
        Refusal{"qwen3_moe_fp8", R"({"quantization_config":{"weight_block_size":[0,128]}})",
                "weight_block_size"},
        Refusal{"qwen3_moe_fp8", R"({"quantization_config":{"activation_scheme":"static"}})",
                "activation_scheme"},
        Refusal{"qwen3_moe_fp8", R"({"quantization_config":{"bits":8}})", "\"bits\""},
        Refusal{"dbrx", R"({"attn_config":{"alibi":true}})", "\"alibi\" is true"},
        Refusal{"dbrx", R"({"ffn_config":{"ffn_act_fn":{"name":"gelu"}}})", "silu"},
        Refusal{"dbrx", R"({"ffn_config":{"moe_normalize_expert_weights":0}})", "topk_norm is 0"},
        Refusal{"dbrx", R"({"attn_config":{"clip_qkv":-1}})", "clip_qkv is -1"},
        Refusal{"dbrx", R"({"n_heads":5})", "\"n_heads\" is 5"},
        Refusal{"qwen3_moe", R"({"frobnicate":3})", "--hf-overrides '{\"frobnicate\": null}'"},
        Refusal{"qwen3_moe", R"({"final_logit_softcapping":30.0})",
                "\"final_logit_softcapping\" is"},
        Refusal{"qwen3_moe", R"({"dtype":"int8"})", "\"dtype\" is \"int8\""},
        Refusal{"llama_dense", R"({"pretraining_tp":2})", "\"pretraining_tp\" is 2"},
        Refusal{"qwen3_moe", R"({"hidden_size":"big"})", "\"hidden_size\" should be an integer"},
        Refusal{"qwen3_moe", R"({"hidden_size":null})", "\"hidden_size\" should be an integer"},
        Refusal{"qwen3_moe", R"({"hidden_size":-1})", "\"hidden_size\" is -1"},
        Refusal{"qwen3_moe", R"({"hidden_size":0})", "hidden_size is 0"},
        Refusal{"qwen3_moe", R"({"num_hidden_layers":2000000000})", "num_layers is 2000000000"},
        Refusal{"qwen3_moe", R"({"num_attention_heads":0})", "\"num_attention_heads\" is 0"},
        Refusal{"qwen3_moe", R"({"num_key_value_heads":3})", "num_kv_heads is 3"},
        Refusal{"qwen3_moe", R"({"head_dim":12})", "head_dim is 12"},
        Refusal{"llama_dense", R"({"head_dim":null,"num_attention_heads":3})", "multiple"},
        Refusal{"qwen3_moe", R"({"num_experts_per_tok":17})", "moe.top_k is 17"},
        Refusal{"qwen3_moe", R"({"decoder_sparse_step":0})", "\"decoder_sparse_step\" is 0"},
        Refusal{"qwen2_moe", R"({"shared_expert_intermediate_size":0})", "is 0"},
        Refusal{"qwen3_moe", R"({"rope_parameters":{"rope_theta":0}})", "rope.theta"},
        Refusal{"qwen3_moe", R"({"rms_norm_eps":0})", "norm_eps is 0"}));

TEST(Registry, ReadsRopeScalingsOfBothDialects) {
  const ModelSpec linear =
      Changed("qwen2_moe_sharded_bf16_v4", R"({"rope_scaling":{"type":"linear","factor":2.0}})");
  EXPECT_EQ(linear.attention.rope.scaling, ops::RopeScaling::kLinear);
  EXPECT_EQ(linear.attention.rope.factor, 2.0);
  const ModelSpec yarn = Changed("qwen3_moe", R"({"rope_parameters":{"rope_type":"yarn",
      "factor":4.0,"original_max_position_embeddings":200,"partial_rotary_factor":0.5}})");
  EXPECT_EQ(yarn.attention.rope.scaling, ops::RopeScaling::kYarn);
  EXPECT_EQ(yarn.attention.rope.original_positions, 200);
  EXPECT_EQ(yarn.attention.rope.rotary_dim, 8);
  EXPECT_EQ(yarn.max_positions, 800);
  EXPECT_NEAR(yarn.attention.rope.attention_factor, 1.1386294, 1e-6);  // 0.1 ln 4 + 1
  const ModelSpec mscale = Changed("qwen3_moe", R"({"rope_scaling":{"type":"yarn","factor":40,
      "original_max_position_embeddings":4096,"mscale":1.0,"mscale_all_dim":1.0}})");
  EXPECT_EQ(mscale.attention.rope.attention_factor, 1.0);
}

TEST(Registry, ANullRemovesTheScalingAndKeepsTheTheta) {
  HfConfig config = Golden("qwen3_moe");
  config.ApplyOverrides(R"({"rope_theta":5.0,"rope_scaling":{"type":"linear","factor":2.0}})");
  config.ApplyOverrides(R"({"rope_scaling":null})");
  const ops::RopeDesc rope = SpecFromConfig(config).attention.rope;
  EXPECT_EQ(rope.scaling, ops::RopeScaling::kNone);
  EXPECT_EQ(rope.theta, 5.0);
}

}  // namespace
}  // namespace sluice
