#include "trace/routing_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "base/error.h"

namespace sluice {
namespace {

struct Routed {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

Routed Apply(RoutingSource& source, int layer, const std::vector<RoutingKey>& tokens, int top_k) {
  Routed routed;
  routed.ids.assign(tokens.size() * static_cast<size_t>(top_k), -1);
  routed.weights.assign(routed.ids.size(), -1.0f);
  const Shape shape = {static_cast<int64_t>(tokens.size()), top_k};
  source.Apply(layer, tokens, TensorView(routed.weights.data(), DType::kF32, shape),
               TensorView(routed.ids.data(), DType::kI32, shape));
  return routed;
}

std::vector<RoutingKey> Tokens(int count) {
  std::vector<RoutingKey> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back({static_cast<uint64_t>(i / 100), i % 100});
  return tokens;
}

// How often each expert was chosen, most often first.
std::vector<int> Popularity(const Routed& routed, int num_experts) {
  std::vector<int> counts(static_cast<size_t>(num_experts));
  for (const int32_t id : routed.ids) ++counts[id];
  std::sort(counts.rbegin(), counts.rend());
  return counts;
}

TEST(RoutingSource, ModelChangesNothing) {
  ModelRouting model;
  const Routed routed = Apply(model, 0, Tokens(2), 2);
  EXPECT_THAT(routed.ids, ::testing::Each(-1));
  EXPECT_TRUE(model.IsModel());
}

RoutedModel Model(int experts) {
  return {.num_layers = 2, .num_experts = experts, .top_k = 2};
}

class SyntheticRows : public ::testing::TestWithParam<const char*> {};

TEST_P(SyntheticRows, AreDistinctInRangeAndIndependentOfTheBatch) {
  for (const int experts : {8, 16, 60, 64, 128, 256}) {
    const auto source = ParseRoutingSource(GetParam(), Model(experts));
    const auto again = ParseRoutingSource(source->Name(), Model(experts));
    for (const int top_k : {1, 4, 8}) {
      const std::vector<RoutingKey> tokens = Tokens(300);
      const Routed batch = Apply(*source, 3, tokens, top_k);
      EXPECT_THAT(batch.weights, ::testing::Each(1.0f / static_cast<float>(top_k)));
      for (size_t t = 0; t < tokens.size(); ++t) {
        const auto begin = batch.ids.begin() + static_cast<std::ptrdiff_t>(t) * top_k;
        const std::vector<int32_t> row(begin, begin + top_k);
        ASSERT_EQ(std::set<int32_t>(row.begin(), row.end()).size(), row.size());
        for (const int32_t id : row) ASSERT_TRUE(id >= 0 && id < experts);
        ASSERT_EQ(Apply(*again, 3, {tokens[t]}, top_k).ids, row);
      }
      EXPECT_EQ(Apply(*source, 3, Tokens(0), top_k).ids.size(), 0u);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, SyntheticRows,
                         ::testing::Values("uniform", "uniform:9", "zipf:1.1", "zipf:2.5:4",
                                           "skewed:0.9", "skewed:0:2", "skewed:1", "markov:0.8",
                                           "markov:0:3", "markov:1:3", "drifting:10",
                                           "drifting:1:5"));

TEST(SyntheticRouting, UniformCoversExpertsEvenly) {
  const auto source = ParseRoutingSource("uniform:5", Model(64));
  const std::vector<int> counts = Popularity(Apply(*source, 0, Tokens(8000), 8), 64);
  // 1000 expected each; the deviation is about 30.
  EXPECT_LT(counts.front(), 1150);
  EXPECT_GT(counts.back(), 850);
}

TEST(SyntheticRouting, ZipfFollowsItsExponent) {
  const auto source = ParseRoutingSource("zipf:1", Model(16));
  const std::vector<int> counts = Popularity(Apply(*source, 0, Tokens(20000), 1), 16);
  double sum = 0.0;
  for (int rank = 1; rank <= 16; ++rank) sum += 1.0 / rank;
  EXPECT_NEAR(counts[0] / 20000.0, 1.0 / sum, 0.02);
  EXPECT_NEAR(counts[1] / 20000.0, 0.5 / sum, 0.02);
  EXPECT_NEAR(counts[7] / 20000.0, 0.125 / sum, 0.01);
}

TEST(SyntheticRouting, SkewedFavoursTheHotExperts) {
  const auto source = ParseRoutingSource("skewed:0.9", Model(128));
  const std::vector<int> counts = Popularity(Apply(*source, 0, Tokens(4000), 4), 128);
  int hot = 0;
  for (int i = 0; i < 8; ++i) hot += counts[i];
  EXPECT_NEAR(hot / 16000.0, 0.9 + 0.1 * 8 / 128, 0.02);
}

// Of a token's experts, the share that one fixed map takes from those of the layer before: the map
// that sends each expert to the one most often chosen with it.
double FollowedShare(RoutingSource& source, int experts) {
  const std::vector<RoutingKey> tokens = Tokens(6000);
  const Routed before = Apply(source, 4, tokens, 1);
  const Routed after = Apply(source, 5, tokens, 1);
  std::vector<std::vector<int>> pairs(experts, std::vector<int>(experts));
  for (size_t t = 0; t < tokens.size(); ++t) ++pairs[before.ids[t]][after.ids[t]];
  int followed = 0;
  for (const auto& row : pairs) followed += *std::max_element(row.begin(), row.end());
  return followed / 6000.0;
}

TEST(SyntheticRouting, MarkovFollowsTheLayerBefore) {
  double sum = 0.0;
  double same = 0.0;  // that two draws by 1 / rank agree
  for (int rank = 1; rank <= 16; ++rank) sum += 1.0 / rank;
  for (int rank = 1; rank <= 16; ++rank) same += 1.0 / (rank * sum * rank * sum);
  EXPECT_NEAR(FollowedShare(*ParseRoutingSource("markov:0.8", Model(16)), 16), 0.8 + 0.2 * same,
              0.03);
  EXPECT_EQ(FollowedShare(*ParseRoutingSource("markov:1", Model(16)), 16), 1.0);
  // Without correlation the likeliest next expert is the most popular one.
  EXPECT_NEAR(FollowedShare(*ParseRoutingSource("markov:0", Model(16)), 16), 1.0 / sum, 0.03);
  // The chain leaves popularities as they are.
  const auto source = ParseRoutingSource("markov:0.7", Model(16));
  const std::vector<int> counts = Popularity(Apply(*source, 9, Tokens(20000), 1), 16);
  EXPECT_NEAR(counts[0] / 20000.0, 1.0 / sum, 0.02);
  EXPECT_NEAR(counts[3] / 20000.0, 0.25 / sum, 0.02);
}

TEST(SyntheticRouting, DriftingMovesItsHotExperts) {
  const auto source = ParseRoutingSource("drifting:50", Model(32));
  const auto hottest = [&](int32_t position) {
    std::vector<RoutingKey> tokens;
    for (uint64_t s = 0; s < 3000; ++s) tokens.push_back({s, position});
    const Routed routed = Apply(*source, 0, tokens, 1);
    std::vector<int> counts(32);
    for (const int32_t id : routed.ids) ++counts[id];
    return std::max_element(counts.begin(), counts.end()) - counts.begin();
  };
  EXPECT_EQ(hottest(0), hottest(49));
  EXPECT_NE(hottest(49), hottest(50));
  EXPECT_NE(hottest(0), hottest(100));
  EXPECT_EQ(hottest(3), hottest(3 + 32 * 50));  // once around
}

TEST(SyntheticRouting, SeedsAndLayersDiffer) {
  const auto one = ParseRoutingSource("zipf:3:1", Model(64));
  const auto two = ParseRoutingSource("zipf:3:2", Model(64));
  const std::vector<RoutingKey> tokens = Tokens(50);
  EXPECT_NE(Apply(*one, 0, tokens, 4).ids, Apply(*two, 0, tokens, 4).ids);
  EXPECT_NE(Apply(*one, 0, tokens, 4).ids, Apply(*one, 1, tokens, 4).ids);
}

std::shared_ptr<InMemoryTrace> OneRecord() {
  auto trace = std::make_shared<InMemoryTrace>(
      RouterTraceHeader{.model = "m", .num_layers = 2, .num_experts = 8, .top_k = 2});
  trace->Add(
      {.sequence = 4, .position = 6, .layer = 1, .experts = {5, 2}, .weights = {0.7f, 0.3f}});
  return trace;
}

TEST(ReplayRouting, TakesExpertsFromTheTrace) {
  ReplayRouting replay(OneRecord());
  const Routed routed = Apply(replay, 1, {{4, 6}, {4, 6}}, 2);
  EXPECT_THAT(routed.ids, ::testing::ElementsAre(5, 2, 5, 2));
  EXPECT_THAT(routed.weights, ::testing::ElementsAre(0.7f, 0.3f, 0.7f, 0.3f));
  EXPECT_THROW(Apply(replay, 0, {{4, 6}}, 2), Error);
  EXPECT_THROW(Apply(replay, 1, {{4, 7}}, 2), Error);
  EXPECT_THROW(Apply(replay, 1, {{4, 6}}, 3), Error);
}

TEST(ReplayRouting, MayKeepTheModelsWeights) {
  ReplayRouting replay(OneRecord(), ReplayWeights::kFromModel);
  std::vector<int32_t> ids = {2, 7};
  std::vector<float> weights = {0.6f, 0.4f};
  replay.Apply(1, std::vector<RoutingKey>{{4, 6}}, TensorView(weights.data(), DType::kF32, {1, 2}),
               TensorView(ids.data(), DType::kI32, {1, 2}));
  EXPECT_THAT(ids, ::testing::ElementsAre(5, 2));
  EXPECT_THAT(weights, ::testing::ElementsAre(0.7f, 0.6f));
}

TEST(ParseRoutingSource, ReadsATraceFile) {
  const std::filesystem::path path = std::filesystem::temp_directory_path() /
                                     ("sluice_replay_" + std::to_string(getpid()) + ".trace");
  {
    RouterTraceWriter writer(path, OneRecord()->header());
    writer.Append(std::vector<RouterRecord>{
        {.sequence = 4, .position = 6, .layer = 1, .experts = {5, 2}, .weights = {0.7f, 0.3f}}});
    writer.Close();
  }
  const auto replay = ParseRoutingSource("replay:" + path.string(), Model(8));
  EXPECT_EQ(replay->Name(), "replay");
  EXPECT_THAT(Apply(*replay, 1, {{4, 6}}, 2).ids, ::testing::ElementsAre(5, 2));
  for (const RoutedModel& other : {RoutedModel{2, 16, 2}, {2, 8, 3}, {3, 8, 2}}) {
    EXPECT_THROW(ParseRoutingSource("replay:" + path.string(), other), Error);
  }
  std::filesystem::remove(path);
  EXPECT_THROW(ParseRoutingSource("replay:" + path.string(), Model(8)), Error);
}

TEST(ParseRoutingSource, RefusesAnythingElse) {
  for (const char* text : {"",           "models",       "replay",   "replay:",    "uniform:",
                           "uniform:x",  "uniform:1:2",  "zipf",     "zipf:0",     "zipf:-1",
                           "zipf:x",     "zipf:1.1:",    "zipf:nan", "skewed:1.5", "skewed:-0.1",
                           "skewed",     "zipf:1:-3",    "markov",   "markov:1.1", "markov:-1",
                           "drifting:0", "drifting:1.5", "drifting"}) {
    EXPECT_THROW(ParseRoutingSource(text, Model(8)), Error) << text;
  }
  EXPECT_EQ(ParseRoutingSource("uniform", Model(8))->Name(), "uniform:0");
  EXPECT_EQ(ParseRoutingSource("zipf:1.1:3", Model(8))->Name(), "zipf:1.1:3");
  EXPECT_EQ(ParseRoutingSource("drifting:300", Model(8))->Name(), "drifting:300:0");
}

}  // namespace
}  // namespace sluice
