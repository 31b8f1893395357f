#include "bench/throughput.h"

#include <gtest/gtest.h>

#include <memory>

#include "arch/testing.h"
#include "bench/timing.h"

namespace sluice {
namespace {

TEST(Quantile, LiesBetweenNeighbours) {
  EXPECT_EQ(Quantile({7.0}, 0.5), 7.0);
  EXPECT_EQ(Quantile({4.0, 1.0, 3.0, 2.0}, 0.5), 2.5);
  EXPECT_EQ(Quantile({1.0, 2.0, 3.0}, 0.0), 1.0);
  EXPECT_EQ(Quantile({1.0, 2.0, 3.0}, 1.0), 3.0);
  EXPECT_DOUBLE_EQ(Quantile({0.0, 10.0}, 0.99), 9.9);
}

TEST(Throughput, TimesRequestsOneByOneAndTogether) {
  const ModelSpec spec = TinyMoeSpec();
  const DummySource source(ListTensors(spec), DType::kF32, 1);
  ModelRunner runner(spec, source, {.num_threads = 2, .num_pages = 32, .max_model_len = 64},
                     std::make_unique<ModelRouting>());
  const boost::json::object result = BenchThroughput(runner, {.prompts = 6,
                                                              .serial_prompts = 2,
                                                              .prompt_tokens = 5,
                                                              .output_tokens = 8,
                                                              .max_num_seqs = 3});
  const boost::json::object& serial = result.at("serial").as_object();
  const boost::json::object& batched = result.at("batched").as_object();
  EXPECT_EQ(serial.at("prompts").to_number<int>(), 2);
  EXPECT_EQ(batched.at("prompts").to_number<int>(), 6);
  for (const boost::json::object& run : {serial, batched}) {
    const double tokens = run.at("prompts").to_number<double>() * 8;
    EXPECT_NEAR(run.at("output_tokens_per_s").as_double() * run.at("seconds").as_double(), tokens,
                1e-6);
    EXPECT_GT(run.at("token_p50_ms").as_double(), 0.0);
    EXPECT_LE(run.at("token_p50_ms").as_double(), run.at("token_p99_ms").as_double());
    EXPECT_GT(run.at("memory_bytes").to_number<double>(), 0.0);
  }
}

TEST(Throughput, RefusesWhatTheContextDoesNotHold) {
  const ModelSpec spec = TinyMoeSpec();
  const DummySource source(ListTensors(spec), DType::kF32, 1);
  ModelRunner runner(spec, source, {.num_threads = 1, .num_pages = 32, .max_model_len = 64},
                     std::make_unique<ModelRouting>());
  EXPECT_THROW(BenchThroughput(runner, {.prompt_tokens = 65}), Error);
}

}  // namespace
}  // namespace sluice
