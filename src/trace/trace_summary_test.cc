#include "trace/trace_summary.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "trace/synthesize.h"

namespace sluice {
namespace {

class Summaries : public ::testing::Test {
 protected:
  Summaries()
      : path_(std::filesystem::temp_directory_path() /
              ("sluice_summary_" + std::to_string(getpid()))) {}
  ~Summaries() override { std::filesystem::remove(path_); }

  TraceSummary Write(const std::vector<RouterRecord>& records) {
    RouterTraceWriter writer(path_, {.num_layers = 5, .num_experts = 8, .top_k = 2});
    writer.Append(records);
    writer.Close();
    RouterTraceReader reader(path_);
    return SummarizeTrace(reader);
  }

  std::filesystem::path path_;
};

RouterRecord Record(uint64_t step, uint64_t sequence, int32_t position, int32_t layer,
                    std::vector<uint16_t> experts) {
  return {step, sequence, position, layer, std::move(experts), {0.5f, 0.5f}};
}

TEST_F(Summaries, CountWhatIsThere) {
  const TraceSummary summary =
      Write({Record(3, 9, 0, 1, {0, 1}), Record(3, 9, 1, 1, {1, 2}), Record(3, 4, 7, 1, {1, 0}),
             Record(3, 9, 0, 4, {5, 6}), Record(6, 9, 2, 1, {0, 7}), Record(6, 4, 8, 1, {0, 7})});
  EXPECT_EQ(summary.records, 6u);
  EXPECT_EQ(summary.steps, 2u);
  EXPECT_EQ(summary.first_step, 3u);
  EXPECT_EQ(summary.last_step, 6u);
  EXPECT_EQ(summary.sequences, 2u);
  EXPECT_FALSE(summary.more_sequences);
  EXPECT_EQ(summary.layers, 2);
  EXPECT_EQ(summary.last_position, 8);
  EXPECT_DOUBLE_EQ(summary.tokens_per_step, 2.0);
  EXPECT_EQ(summary.most_tokens, 3u);
  EXPECT_DOUBLE_EQ(summary.experts_per_step, (3 + 2 + 2) / 3.0);
}

TEST_F(Summaries, OfNothing) {
  const TraceSummary summary = Write({});
  EXPECT_EQ(summary.records, 0u);
  EXPECT_EQ(summary.steps, 0u);
  EXPECT_EQ(summary.layers, 0);
  EXPECT_EQ(summary.tokens_per_step, 0.0);
}

TEST_F(Summaries, OfASyntheticRun) {
  SynthesizeTrace({.kind = SyntheticKind::kDrifting, .parameter = 3},
                  {.num_layers = 4, .num_experts = 16, .top_k = 3, .sequences = 5, .steps = 7},
                  path_);
  RouterTraceReader reader(path_);
  EXPECT_EQ(reader.header().source, "drifting:3:0");
  const TraceSummary summary = SummarizeTrace(reader);
  EXPECT_EQ(summary.records, 4u * 5 * 7);
  EXPECT_EQ(summary.steps, 7u);
  EXPECT_EQ(summary.sequences, 5u);
  EXPECT_EQ(summary.layers, 4);
  EXPECT_EQ(summary.last_position, 6);
  EXPECT_EQ(summary.most_tokens, 5u);
  EXPECT_GT(summary.experts_per_step, 3.0);
  EXPECT_LT(summary.experts_per_step, 15.0);
}

}  // namespace
}  // namespace sluice
