#include "model/decoder.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "arch/registry.h"
#include "base/machine.h"
#include "checkpoint/config.h"
#include "moe/token_dispatcher.h"

namespace sluice {
namespace {

constexpr char kConfig[] = R"({
  "model_type": "qwen3_moe", "vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 2,
  "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 48,
  "moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2,
  "max_position_embeddings": 64, "norm_topk_prob": true, "tie_word_embeddings": true,
  "mlp_only_layers": [0], "rms_norm_eps": 1e-6})";

class DecoderTest : public ::testing::Test {
 protected:
  DecoderTest()
      : spec_(SpecFromConfig(HfConfig::FromJson(kConfig, "test"))),
        source_(ListTensors(spec_), DType::kF32, 1),
        weights_(spec_, source_, DType::kF32, pool_),
        expert_source_(spec_, source_),
        experts_(ExpertLayoutOf(spec_, DType::kF32),
                 {.experts = ExpertSet(MoeLayers(spec_), spec_.moe.num_experts)}, expert_source_,
                 pool_),
        dispatcher_(MakeLocalDispatcher(spec_.moe.num_experts)),
        pages_({.page_size = 8, .groups = {{.num_layers = 2, .num_kv_heads = 1, .head_dim = 16}}},
               2) {}

  // Hidden states of the tokens run in steps of `chunk`.
  std::vector<float> Run(std::vector<int32_t> tokens, int chunk) {
    std::vector<float> hidden;
    const std::vector<int32_t> block_table = {1, 0};
    for (int begin = 0; begin < static_cast<int>(tokens.size()); begin += chunk) {
      const int count = std::min<int>(chunk, static_cast<int>(tokens.size()) - begin);
      std::vector<int32_t> positions;
      std::vector<int64_t> slots;
      std::vector<RoutingKey> keys;
      for (int p = begin; p < begin + count; ++p) {
        positions.push_back(p);
        slots.push_back(block_table[p / 8] * 8 + p % 8);
        keys.push_back({.sequence = 0, .position = p});
      }
      const ops::AttentionSequence sequence{.query_begin = 0,
                                            .query_count = count,
                                            .positions = positions,
                                            .pages = block_table,
                                            .kv_length = begin + count,
                                            .mask = spec_.attention.mask,
                                            .ancestors = {},
                                            .slots_of_queries = positions};
      Arena::Scope scope(arena_);
      ops::OpContext ctx{.pool = pool_, .arena = arena_, .tier = DetectCpuTier()};
      const DecoderInput input{
          .tokens = ConstTensorView(tokens.data() + begin, DType::kI32, {count}),
          .positions = ConstTensorView(positions.data(), DType::kI32, {count}),
          .kv_slots = ConstTensorView(slots.data(), DType::kI64, {count}),
          .attention = ops::PlaceSequences(std::span(&sequence, 1), ctx)};
      const std::vector<int> layers = MoeLayers(spec_);
      StepRouting routing({.layers = layers,
                           .top_k = spec_.moe.top_k,
                           .source = source_of_routing_,
                           .tokens = keys},
                          ctx);
      MoeContext moe{.experts = experts_, .dispatcher = *dispatcher_, .routing = routing};
      const Decoder decoder(spec_, weights_);
      const Decoder::Stream rows = decoder.Embed(input, ctx);
      decoder.RunLayers(0, spec_.num_layers, input, rows, pages_, &moe, ctx);
      const float* x = rows.x.data<float>();
      hidden.insert(hidden.end(), x, x + rows.x.NumElements());
    }
    return hidden;
  }

  ThreadPool pool_{2};
  Arena arena_;
  ModelSpec spec_;
  DummySource source_;
  ModelWeights weights_;
  CheckpointExperts expert_source_;
  ExpertStore experts_;
  std::unique_ptr<TokenDispatcher> dispatcher_;
  ModelRouting source_of_routing_;
  PagePool pages_;
};

TEST_F(DecoderTest, ChunksGiveTheSameBits) {
  const std::vector<int32_t> tokens = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8};
  const std::vector<float> whole = Run(tokens, 12);
  EXPECT_EQ(Run(tokens, 1), whole);
  EXPECT_EQ(Run(tokens, 5), whole);
}

TEST_F(DecoderTest, LaterTokensDoNotChangeEarlierRows) {
  const std::vector<float> a = Run({3, 1, 4, 1}, 4);
  const std::vector<float> b = Run({3, 1, 4, 2}, 4);
  EXPECT_TRUE(std::equal(a.begin(), a.begin() + 3 * 32, b.begin()));
  EXPECT_FALSE(std::equal(a.begin() + 3 * 32, a.end(), b.begin() + 3 * 32));
}

TEST_F(DecoderTest, StacksProjectionsInOrder) {
  Tensor k(DType::kF32, {16, 32});
  source_.Read("model.layers.1.self_attn.k_proj.weight", k.shape(), k.view());
  const ConstTensorView stacked = weights_.layer(1).qkv;  // q 32 rows, k 16, v 16
  EXPECT_EQ(stacked.dim(0), 64);
  for (int i = 0; i < 16 * 32; ++i) {
    ASSERT_EQ(stacked.data<float>()[32 * 32 + i], k.data<float>()[i]);
  }
  EXPECT_TRUE(weights_.layer(0).moe.router.empty());
  EXPECT_TRUE(weights_.layer(1).gate_up.empty());
  EXPECT_EQ(weights_.lm_head().raw(), weights_.embedding().raw());
}

}  // namespace
}  // namespace sluice
