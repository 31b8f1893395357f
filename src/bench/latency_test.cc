#include "bench/latency.h"

#include <gtest/gtest.h>

#include "arch/testing.h"

namespace sluice {
namespace {

class LatencyTest : public ::testing::Test {
 protected:
  LatencyTest()
      : spec_(TinyMoeSpec()),
        source_(ListTensors(spec_), DType::kF32, 1),
        runner_(spec_, source_, {.num_threads = 2, .num_pages = 16, .max_model_len = 64},
                std::make_unique<SyntheticRouting>(SyntheticDesc{.seed = 3}, 8)) {}

  ModelSpec spec_;
  DummySource source_;
  ModelRunner runner_;
};

TEST_F(LatencyTest, ReportsEverySampleAndTheExpertsTouched) {
  const boost::json::object result =
      BenchLatency(runner_, {.batch = 3, .prompt_tokens = 5, .output_tokens = 8, .repeats = 2});
  EXPECT_EQ(result.at("prefill_s").as_array().size(), 2u);
  EXPECT_EQ(result.at("decode_step_s").as_array().size(), 14u);
  EXPECT_GT(result.at("decode_tokens_per_s").as_double(), 0);
  // Three tokens of two distinct experts each touch between two and six.
  EXPECT_GE(result.at("distinct_experts_per_layer").as_double(), 2.0);
  EXPECT_LE(result.at("distinct_experts_per_layer").as_double(), 6.0);
  EXPECT_GT(result.at("decode_step_bytes").as_double(),
            static_cast<double>(ActiveBytesPerToken(spec_, DType::kF32)));
  // Every weight but the embedding's, for three tokens, and some attention.
  const double weights = static_cast<double>(ActiveBytesPerToken(spec_, DType::kF32)) / 4;
  EXPECT_GT(result.at("decode_step_flops").as_double(), 0.9 * 2 * 3 * weights);
  EXPECT_LT(result.at("decode_step_flops").as_double(), 1.5 * 2 * 3 * weights);
}

TEST_F(LatencyTest, AChunkedPrefillDecodesTheSame) {
  std::vector<double> experts;
  for (const int chunk : {0, 1, 4, 10, 64}) {
    const boost::json::object result = BenchLatency(runner_, {.batch = 2,
                                                              .prompt_tokens = 10,
                                                              .prefill_chunk = chunk,
                                                              .output_tokens = 8,
                                                              .repeats = 1});
    EXPECT_EQ(result.at("prefill_chunk").to_number<int>(), chunk);
    experts.push_back(result.at("distinct_experts_per_layer").as_double());
  }
  for (const double each : experts) EXPECT_EQ(each, experts.front());
}

TEST_F(LatencyTest, KvCacheComparisonMakesTheSameTokensFaster) {
  const boost::json::object result =
      BenchKvCache(runner_, {.batch = 2, .prompt_tokens = 24, .output_tokens = 32, .repeats = 7});
  EXPECT_GT(result.at("ratio").as_double(), 1.0);
}

TEST_F(LatencyTest, RefusesWhatDoesNotFit) {
  EXPECT_THROW(BenchLatency(runner_, {.prompt_tokens = 60, .output_tokens = 5}), Error);
  EXPECT_THROW(BenchLatency(runner_, {.batch = 9, .prompt_tokens = 20, .output_tokens = 5}), Error);
}

}  // namespace
}  // namespace sluice
