#include "bench/serving_figures.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/array.hpp>

namespace sluice {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Two answers and two refusals of two kinds.
std::vector<RequestOutcome> Outcomes() {
  return {{.sent_s = 0.0,
           .ended_s = 0.5,
           .chunks_s = {0.1, 0.2, 0.4, 0.5},
           .prompt_tokens = 10,
           .output_tokens = 5},
          {.sent_s = 0.25, .ended_s = 0.26, .error = "HTTP 429: full"},
          {.sent_s = 0.5,
           .ended_s = 2.0,
           .chunks_s = {0.8, 2.0},
           .prompt_tokens = 30,
           .output_tokens = 3},
          {.sent_s = 1.0, .ended_s = 1.03, .error = "HTTP 429: full"},
          {.sent_s = 1.0, .late_s = 0.5, .ended_s = 1.5, .chunks_s = {1.2}, .error = "no answer"}};
}

TEST(ServingFigures, AreThoseOfTheAnswersThatCameWhole) {
  const ServingFigures figures = SummarizeServing(Outcomes(), std::vector<double>{50.0, 100.0});
  EXPECT_EQ(figures.completed, 2u);
  EXPECT_EQ(figures.failed, 3u);
  EXPECT_DOUBLE_EQ(figures.duration_s, 2.0);
  EXPECT_EQ(figures.input_tokens, 40);
  EXPECT_EQ(figures.output_tokens, 8);
  EXPECT_DOUBLE_EQ(figures.requests_per_s, 1.0);
  EXPECT_DOUBLE_EQ(figures.output_tokens_per_s, 4.0);
  EXPECT_DOUBLE_EQ(figures.total_tokens_per_s, 24.0);
  // Sent to the first piece: 100 and 300 ms.
  EXPECT_NEAR(figures.ttft.mean, 200.0, 1e-9);
  EXPECT_NEAR(figures.ttft.deviation, 100.0, 1e-9);
  EXPECT_NEAR(figures.ttft.percentiles[1], 300.0, 1e-9);
  // 400 ms for 4 tokens and 1200 ms for 2.
  EXPECT_NEAR(figures.tpot.mean, 350.0, 1e-9);
  EXPECT_NEAR(figures.tpot.percentiles[1], 600.0, 1e-9);
  // 100, 200, 100 and 1200 ms.
  EXPECT_NEAR(figures.itl.mean, 400.0, 1e-9);
  EXPECT_NEAR(figures.itl.median, 150.0, 1e-9);
  EXPECT_NEAR(figures.itl.percentiles[0], 150.0, 1e-9);
  EXPECT_NEAR(figures.itl.most, 1200.0, 1e-9);
  EXPECT_NEAR(figures.e2el.median, 1000.0, 1e-9);
  // Of five, those that failed among them.
  EXPECT_NEAR(figures.lateness.mean, 100.0, 1e-9);
  EXPECT_NEAR(figures.lateness.most, 500.0, 1e-9);
}

TEST(ServingFigures, PeaksAreOfTheBestSecondAndOfWhatIsOnItsWay) {
  const ServingFigures figures = SummarizeServing(Outcomes(), {});
  // Five tokens of the first answer and half of the second's three.
  EXPECT_DOUBLE_EQ(figures.peak_output_tokens_per_s, 6.5);
  // The second answer and two that failed; what ends at 0.5 makes room for what begins.
  EXPECT_EQ(figures.peak_concurrent, 3);
  const std::vector<RequestOutcome> in_turn = {{.sent_s = 0.0, .ended_s = 1.0, .chunks_s = {1.0}},
                                               {.sent_s = 1.0, .ended_s = 2.0, .chunks_s = {2.0}}};
  EXPECT_EQ(SummarizeServing(in_turn, {}).peak_concurrent, 1);
}

TEST(ServingFigures, FailuresAreCountedByName) {
  const ServingFigures figures = SummarizeServing(Outcomes(), std::vector<double>{99.0});
  ASSERT_EQ(figures.failures.size(), 2u);
  EXPECT_EQ(figures.failures[0].error, "HTTP 429: full");
  EXPECT_EQ(figures.failures[0].count, 2u);
  EXPECT_NEAR(figures.failures[0].after.median, 20.0, 1e-9);
  EXPECT_EQ(figures.failures[1].error, "no answer");
  EXPECT_EQ(figures.failures[1].count, 1u);
}

TEST(ServingFigures, NothingAnsweredIsAllZero) {
  const std::vector<RequestOutcome> refused = {{.sent_s = 0.0, .ended_s = 0.0, .error = "x"}};
  const ServingFigures figures = SummarizeServing(refused, std::vector<double>{99.0});
  EXPECT_EQ(figures.completed, 0u);
  EXPECT_EQ(figures.output_tokens_per_s, 0.0);
  EXPECT_EQ(figures.ttft.mean, 0.0);
  EXPECT_EQ(figures.ttft.percentiles, std::vector<double>({0.0}));
}

// The lines' names: what stands before a colon, and titles without their rules.
std::vector<std::string> NamesOf(const std::string& block) {
  std::vector<std::string> names;
  for (size_t begin = 0; begin < block.size();) {
    const size_t end = block.find('\n', begin);
    std::string line = block.substr(begin, end - begin);
    begin = end + 1;
    const size_t colon = line.find(':');
    names.push_back(colon == std::string::npos ? line : line.substr(0, colon));
  }
  return names;
}

TEST(ServingBlock, HasTheNamesAndTheOrderThatScriptsRead) {
  const ServingReport report{.max_concurrency = 8, .request_rate = 2.5};
  const std::string block = ServingBlock(SummarizeServing(Outcomes(), report.percentiles), report);
  EXPECT_THAT(
      NamesOf(block),
      ::testing::ElementsAre(
          "============ Serving Benchmark Result ============", "Successful requests",
          "Failed requests", "Maximum request concurrency", "Request rate configured (RPS)",
          "Benchmark duration (s)", "Total input tokens", "Total generated tokens",
          "Request throughput (req/s)", "Output token throughput (tok/s)",
          "Peak output token throughput (tok/s)", "Peak concurrent requests",
          "Total token throughput (tok/s)", "---------------Time to First Token----------------",
          "Mean TTFT (ms)", "Median TTFT (ms)", "P99 TTFT (ms)",
          "-----Time per Output Token (excl. 1st token)------", "Mean TPOT (ms)",
          "Median TPOT (ms)", "P99 TPOT (ms)", "---------------Inter-token Latency----------------",
          "Mean ITL (ms)", "Median ITL (ms)", "P99 ITL (ms)",
          "==================================================", "Max ITL (ms)"));
  EXPECT_THAT(block, ::testing::EndsWith("\nMax ITL (ms):                            1200.00\n"));
  EXPECT_THAT(block, HasSubstr("Successful requests:                     2\n"));
  EXPECT_THAT(block, HasSubstr("Request rate configured (RPS):           2.50\n"));
  EXPECT_THAT(block, HasSubstr("Mean TTFT (ms):                          200.00\n"));
}

TEST(ServingBlock, PrintsTheLatenciesAndPercentilesThatWereAskedFor) {
  const ServingReport report{.metrics = {"e2el"}, .percentiles = {50.0, 99.9}};
  const std::string block = ServingBlock(SummarizeServing(Outcomes(), report.percentiles), report);
  EXPECT_THAT(block, HasSubstr("----------------End-to-end Latency----------------\n"));
  EXPECT_THAT(block, HasSubstr("P50 E2EL (ms):                           1000.00\n"));
  EXPECT_THAT(block, HasSubstr("P99.9 E2EL (ms): "));
  EXPECT_THAT(block, Not(HasSubstr("TTFT")));
  EXPECT_THAT(block, Not(HasSubstr("ITL")));
  EXPECT_THAT(block, Not(HasSubstr("configured")));
  EXPECT_THAT(block, Not(HasSubstr("Maximum request concurrency")));
}

TEST(ServingJson, HasEveryLatencyAndEveryRequest) {
  const std::vector<RequestOutcome> outcomes = Outcomes();
  const std::vector<double> percentiles = {99.0, 99.9};
  const boost::json::object result =
      ServingJson(SummarizeServing(outcomes, percentiles), percentiles, outcomes);
  EXPECT_EQ(result.at("completed").to_number<int>(), 2);
  EXPECT_NEAR(result.at("median_itl_ms").as_double(), 150.0, 1e-9);
  for (const char* key :
       {"p99_ttft_ms", "p99.9_tpot_ms", "std_itl_ms", "mean_e2el_ms", "max_lateness_ms"}) {
    EXPECT_TRUE(result.contains(key)) << key;
  }
  EXPECT_NEAR(result.at("max_itl_ms").as_double(), 1200.0, 1e-9);
  EXPECT_NEAR(result.at("max_ttft_ms").as_double(), 300.0, 1e-9);
  EXPECT_EQ(result.at("failures").as_array().size(), 2u);
  const boost::json::array& requests = result.at("requests").as_array();
  ASSERT_EQ(requests.size(), 5u);
  EXPECT_NEAR(requests[2].at("ttft_ms").as_double(), 300.0, 1e-9);
  EXPECT_EQ(requests[3].at("error").as_string(), "HTTP 429: full");
}

}  // namespace
}  // namespace sluice
