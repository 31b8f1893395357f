#include "model/model_weights.h"

#include <gtest/gtest.h>

#include "arch/registry.h"
#include "checkpoint/config.h"

namespace sluice {
namespace {

constexpr char kConfig[] = R"({
  "model_type": "deepseek_v3", "vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 2,
  "num_attention_heads": 3, "num_key_value_heads": 3, "q_lora_rank": 12, "kv_lora_rank": 16,
  "qk_nope_head_dim": 10, "qk_rope_head_dim": 8, "v_head_dim": 6, "intermediate_size": 48,
  "moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2,
  "topk_group": 1, "n_shared_experts": 2, "first_k_dense_replace": 1,
  "max_position_embeddings": 64})";

// kv_b has for each head 10 rows that make keys and 6 that make values.
TEST(ModelWeights, SplitsWhatLeadsOutOfTheLatentByHeads) {
  const ModelSpec spec = SpecFromConfig(HfConfig::FromJson(kConfig, "test"));
  const DummySource source(ListTensors(spec), DType::kF32, 1);
  ThreadPool pool(2);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const ModelWeights weights(spec, source, dtype, pool);
    Tensor kv_b(dtype, {48, 16});
    source.Read("model.layers.1.self_attn.kv_b_proj.weight", kv_b.shape(), kv_b.view());
    const auto bits = [&](const ConstTensorView& view, int64_t i) {
      return dtype == DType::kF32 ? static_cast<const uint32_t*>(view.raw())[i]
                                  : static_cast<const uint16_t*>(view.raw())[i];
    };
    const LatentWeights& latent = weights.layer(1).latent;
    ASSERT_EQ(latent.k_up.shape(), (Shape{3, 16, 10}));
    ASSERT_EQ(latent.v_up.shape(), (Shape{3, 6, 16}));
    for (int64_t h = 0; h < 3; ++h) {
      for (int64_t c = 0; c < 16; ++c) {
        for (int64_t d = 0; d < 10; ++d) {
          ASSERT_EQ(bits(latent.k_up, (h * 16 + c) * 10 + d), bits(kv_b, (h * 16 + d) * 16 + c));
        }
        for (int64_t d = 0; d < 6; ++d) {
          ASSERT_EQ(bits(latent.v_up, (h * 6 + d) * 16 + c),
                    bits(kv_b, (h * 16 + 10 + d) * 16 + c));
        }
      }
    }
  }
}

TEST(ModelWeights, ALatentLayerHasItsOwnProjections) {
  const ModelSpec spec = SpecFromConfig(HfConfig::FromJson(kConfig, "test"));
  const DummySource source(ListTensors(spec), DType::kF32, 1);
  ThreadPool pool(1);
  int64_t bytes = 0;
  const ModelWeights weights(spec, source, DType::kF32, pool, [&](int64_t read) { bytes += read; });
  const LayerWeights& layer = weights.layer(1);
  EXPECT_TRUE(layer.qkv.empty());
  EXPECT_EQ(layer.latent.q_kv_a.shape(), (Shape{12 + 24, 32}));
  EXPECT_TRUE(layer.latent.q_kv_a_bias.empty());
  EXPECT_EQ(layer.latent.q_b.shape(), (Shape{54, 12}));
  EXPECT_EQ(layer.o.shape(), (Shape{32, 18}));
  EXPECT_EQ(layer.moe.router_bias.shape(), (Shape{4}));
  EXPECT_EQ(layer.moe.router_bias.dtype(), DType::kF32);
  EXPECT_EQ(layer.moe.shared_gate_up.shape(), (Shape{64, 32}));
  EXPECT_TRUE(weights.layer(0).moe.router_bias.empty());
  // Nothing is held twice: all but the routed experts was read once.
  const int64_t experts = 4 * 3 * 16 * 32 * 4;
  EXPECT_EQ(bytes, static_cast<int64_t>(WeightBytes(spec, DType::kF32)) - experts);
}

}  // namespace
}  // namespace sluice
