#include "bench/layer_profile.h"

#include <gtest/gtest.h>

#include "arch/testing.h"
#include "base/error.h"

namespace sluice {
namespace {

TEST(LayerProfile, TimesEveryPartOfALayer) {
  const ModelSpec spec = TinyMoeSpec();
  for (const int rows : {1, 9}) {
    const LayerLatencies layer =
        MeasureLayer(spec, "tiny", {.num_threads = 2, .page_size = 16}, rows, 40);
    EXPECT_EQ(layer.rows, rows);
    EXPECT_EQ(layer.num_experts, spec.moe.num_experts);
    EXPECT_EQ(layer.num_layers, spec.NumMoeLayers());
    EXPECT_GE(layer.expert_rows * spec.moe.num_experts, rows * spec.moe.top_k);
    for (const double seconds : {layer.attention_s, layer.gate_s, layer.expert_s,
                                 layer.attention_load_s, layer.gate_load_s, layer.expert_load_s}) {
      EXPECT_GT(seconds, 0.0);
      EXPECT_LT(seconds, 1.0);
    }
  }
}

TEST(LayerProfile, AWiderModelTakesLonger) {
  ModelSpec spec = TinyMoeSpec();
  spec.moe.expert_ffn *= 64;
  for (TensorRule& rule : spec.tensors) {
    const bool out = rule.role == TensorRole::kExpertGate || rule.role == TensorRole::kExpertUp;
    if (out) rule.shape[0] = spec.moe.expert_ffn;
    if (rule.role == TensorRole::kExpertDown) rule.shape[1] = spec.moe.expert_ffn;
  }
  const RunnerOptions options{.num_threads = 1, .page_size = 16};
  const LayerLatencies narrow = MeasureLayer(TinyMoeSpec(), "narrow", options, 1, 16);
  const LayerLatencies wide = MeasureLayer(spec, "wide", options, 1, 16);
  EXPECT_GT(wide.expert_s, narrow.expert_s);
  EXPECT_GT(wide.expert_load_s, narrow.expert_load_s);
}

TEST(LayerProfile, RefusesAModelWithoutExperts) {
  ModelSpec spec = TinyMoeSpec();
  spec.ffn.assign(spec.num_layers, FfnKind::kDense);
  EXPECT_THROW(MeasureLayer(spec, "dense", {.num_threads = 1}, 1, 16), Error);
}

}  // namespace
}  // namespace sluice
