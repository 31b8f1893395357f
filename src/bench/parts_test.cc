#include "bench/parts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "arch/testing.h"
#include "base/error.h"

namespace sluice {
namespace {

std::vector<PartRow> Rows(const std::function<void(OpBench&, const OnPartRow&)>& time) {
  OpBench bench({.num_threads = 2, .page_size = 16});
  std::vector<PartRow> rows;
  time(bench, [&](const PartRow& row) { rows.push_back(row); });
  return rows;
}

ModelSpec LatentSpecOfGolden() {
  return SpecFromConfig(HfConfig::FromFolder(SLUICE_SOURCE_DIR "/tests/golden/deepseek_v3"));
}

TEST(PartFloor, IsTheSlowerOfMemoryAndCompute) {
  const MachineLimits limits{.bytes_per_s = 1e9, .flops_per_s = 1e10};
  PartRow row{.bytes = 2e6, .flops = 1e7};
  EXPECT_DOUBLE_EQ(FloorOf(row, limits).seconds, 2e-3);
  EXPECT_STREQ(FloorOf(row, limits).bound, "memory");
  row.flops = 4e7;
  EXPECT_DOUBLE_EQ(FloorOf(row, limits).seconds, 4e-3);
  EXPECT_STREQ(FloorOf(row, limits).bound, "compute");
  row.part = "norm";
  row.shape = {{"tokens", 8}, {"routing", "zipf"}};
  row.seconds = {9e-3, 8e-3, 7e-3};
  const boost::json::object json = ToJson(row, limits);
  EXPECT_DOUBLE_EQ(json.at("share_of_floor").as_double(), 0.5);
  EXPECT_DOUBLE_EQ(json.at("us").as_double(), 8e3);
  EXPECT_EQ(json.at("samples_s").as_array().size(), 3u);
  EXPECT_EQ(json.at("tokens").as_int64(), 8);
  EXPECT_EQ(ShapeText(row), "tokens=8 routing=zipf");
}

TEST(OpBench, FillsAllOfMemoryThatThePatternDoesNotDivide) {
  OpBench bench({.num_threads = 2});
  for (const int64_t count : {0, 3, (1 << 22) + 5}) {
    const Tensor tensor = bench.Floats(DType::kF32, {count});
    const float* values = tensor.data<float>();
    EXPECT_TRUE(std::all_of(values, values + count,
                            [](float v) { return v >= -0.125f && v < 0.125f && v != 0.0f; }));
  }
}

TEST(OpBench, SmallDataTakesMoreTurns) {
  EXPECT_EQ(OpBench::Turns(int64_t{1} << 40), 1);
  EXPECT_EQ(OpBench::Turns(int64_t{100} << 20), 3);
  EXPECT_EQ(OpBench::Turns(1), 200);
}

TEST(Parts, TheRouterAloneAndBehindItsProduct) {
  const ModelSpec spec = TinyMoeSpec();  // 8 experts, 2 chosen, 32 wide
  const std::vector<PartRow> rows = Rows([&](OpBench& bench, const OnPartRow& on_row) {
    TimeRouter(spec, bench, std::vector<int>{3}, on_row);
  });
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].part, "choice");
  const int chosen = 3 * 2 * (4 + 4);
  EXPECT_EQ(rows[0].bytes, 3 * 8 * 4 + chosen);
  EXPECT_EQ(rows[1].bytes, (8 * 32 + 2 * 3 * 32) * 4 + chosen);
  EXPECT_EQ(rows[1].flops, 2 * 3 * 8 * 32);
  for (const PartRow& row : rows) EXPECT_GE(row.seconds.size(), 5u);
}

TEST(Parts, ADenseModelHasNoRouter) {
  ModelSpec spec = TinyMoeSpec();
  spec.moe = {};
  EXPECT_THROW(Rows([&](OpBench& bench, const OnPartRow& on_row) {
                 TimeRouter(spec, bench, std::vector<int>{1}, on_row);
               }),
               Error);
}

TEST(Parts, UnevenRoutingReadsFewerExperts) {
  const ModelSpec spec = TinyMoeSpec();
  const std::vector<PartRow> rows = Rows([&](OpBench& bench, const OnPartRow& on_row) {
    TimeKernels(spec, bench, std::vector<int>{24}, on_row);
  });
  std::map<std::string, PartRow> by_routing;
  for (const PartRow& row : rows) {
    EXPECT_FALSE(row.seconds.empty()) << row.part;
    EXPECT_GT(row.bytes, 0.0) << row.part;
    if (row.part == "experts") by_routing[ShapeText(row)] = row;
  }
  const PartRow& one = by_routing.at("tokens=24 routing=one");
  const PartRow& uniform = by_routing.at("tokens=24 routing=uniform");
  EXPECT_EQ(one.distinct_experts, 2.0);
  EXPECT_GT(*uniform.distinct_experts, 6.0);
  EXPECT_LE(*uniform.distinct_experts, 8.0);
  EXPECT_EQ(one.flops, uniform.flops);
  const double expert_bytes = 3 * 32 * 16 * 4;
  EXPECT_DOUBLE_EQ(uniform.bytes - one.bytes, (*uniform.distinct_experts - 2) * expert_bytes);
}

TEST(Parts, EveryProductOfALayerOnceWithItsShape) {
  const auto parts_of = [](const ModelSpec& spec) {
    std::map<std::string, std::string> parts;
    for (const PartRow& row : Rows([&](OpBench& bench, const OnPartRow& on_row) {
           TimeKernels(spec, bench, std::vector<int>{1}, on_row);
         })) {
      if (row.part == "experts") continue;
      EXPECT_TRUE(parts.emplace(row.part, ShapeText(row)).second);
    }
    return parts;
  };
  // 2 heads over one of 16.
  std::map<std::string, std::string> parts = parts_of(TinyMoeSpec());
  EXPECT_EQ(parts.at("qkv"), "tokens=1 in=32 out=64");
  EXPECT_EQ(parts.at("o"), "tokens=1 in=32 out=32");
  EXPECT_EQ(parts.at("router"), "tokens=1 in=32 out=8");
  EXPECT_EQ(parts.at("lm_head"), "tokens=1 in=32 out=64");
  EXPECT_FALSE(parts.contains("gate_up"));  // its layers all have experts

  const ModelSpec latent = LatentSpecOfGolden();
  const LatentSpec& l = latent.attention.latent;
  parts = parts_of(latent);
  EXPECT_EQ(parts.at("q_kv_a"), "tokens=1 in=" + std::to_string(latent.hidden_size) +
                                    " out=" + std::to_string(l.q_rank + l.kv_rank + l.rope_dim));
  for (const char* part : {"norm", "q_b", "k_up", "v_up", "o", "router", "gate_up", "down"}) {
    EXPECT_TRUE(parts.contains(part)) << part;
  }
}

TEST(Parts, TheHeadIsForRowsThatAreSampled) {
  const std::vector<PartRow> rows = Rows([&](OpBench& bench, const OnPartRow& on_row) {
    TimeKernels(TinyMoeSpec(), bench, std::vector<int>{300}, on_row);
  });
  EXPECT_TRUE(std::none_of(rows.begin(), rows.end(),
                           [](const PartRow& row) { return row.part == "lm_head"; }));
}

TEST(Parts, AttentionReadsWhatIsSeen) {
  const ModelSpec spec = TinyMoeSpec();  // 2 heads over one of 16, 64 positions
  const std::vector<AttentionCase> cases = {{.sequences = 3, .queries = 1, .context = 40},
                                            {.sequences = 1, .queries = 33, .context = 33},
                                            {.sequences = 1, .queries = 1, .context = 65}};
  const auto time = [&](const ModelSpec& timed) {
    return Rows([&](OpBench& bench, const OnPartRow& on_row) {
      TimeAttention(timed, bench, cases, on_row);
    });
  };
  std::vector<PartRow> rows = time(spec);
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[0].part, "decode");
  EXPECT_EQ(rows[0].bytes, 3 * 40 * 2 * 16 * 4 + 3 * 2 * 2 * 16 * 4);
  EXPECT_EQ(rows[0].flops, 4.0 * 3 * 40 * 2 * 16);
  EXPECT_EQ(rows[1].part, "prefill");
  EXPECT_EQ(rows[1].flops, 2 * 33 * 34 * 2 * 16);
  EXPECT_FALSE(rows[0].seconds.empty());
  EXPECT_FALSE(rows[1].seconds.empty());
  EXPECT_TRUE(rows[2].seconds.empty());
  EXPECT_EQ(rows[2].left_out, "the model's context has 64 positions");

  ModelSpec windowed = spec;
  windowed.attention.window = 8;
  windowed.attention.windowed.assign(spec.num_layers, true);
  rows = time(windowed);
  EXPECT_EQ(rows[0].bytes, 3 * 8 * 2 * 16 * 4 + 3 * 2 * 2 * 16 * 4);
  EXPECT_EQ(rows[1].flops, 4 * (8 * 9 / 2 + 25 * 8) * 2 * 16);

  for (const PartRow& row : time(LatentSpecOfGolden())) EXPECT_FALSE(row.part.empty());
}

}  // namespace
}  // namespace sluice
