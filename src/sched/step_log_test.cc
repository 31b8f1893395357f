#include "sched/step_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

namespace sluice {
namespace {

using testing::HasSubstr;
using namespace std::chrono_literals;

SequenceSlice Slice(int rows, std::vector<int32_t> sample_rows, int generated) {
  SequenceSlice slice;
  slice.tokens.resize(static_cast<size_t>(rows));
  slice.sample_rows = std::move(sample_rows);
  slice.sample.generated = generated;
  return slice;
}

TEST(StepTiming, TellsPrefillsFromDecodingSequences) {
  StepPlan plan{.step = 7};
  plan.slices = {Slice(1, {0}, 3),        // decodes
                 Slice(3, {0, 1, 2}, 5),  // with two drafts
                 Slice(16, {}, 0),        // a chunk of a prompt
                 Slice(9, {8}, 0),        // the last one
                 Slice(1, {0}, 0),        // a prompt of one token
                 Slice(12, {11}, 4)};     // computed again after preemption
  StepTiming timing;
  timing.Describe(plan);
  EXPECT_EQ(timing.step, 7u);
  EXPECT_EQ(timing.sequences, 6);
  EXPECT_EQ(timing.decode_rows, 4);
  EXPECT_EQ(timing.prefill_rows, 38);
}

TEST(StepLog, TimesThePhases) {
  StepLog log;
  StepTiming timing;
  {
    const StepLog::Timer timer(log, StepPhase::kCollect, timing);
    std::this_thread::sleep_for(3ms);
  }
  EXPECT_GE(timing.phase(StepPhase::kCollect), 3ms);
  EXPECT_EQ(timing.phase(StepPhase::kCommit), 0ns);
}

TEST(StepLog, KeepsTheLastSteps) {
  StepLog log(/*capacity=*/3);
  for (uint64_t step = 1; step <= 5; ++step) log.Add({.step = step});
  const std::vector<StepTiming> recent = log.Recent();
  ASSERT_EQ(recent.size(), 3u);
  EXPECT_EQ(recent.front().step, 3u);
  EXPECT_EQ(recent.back().step, 5u);
}

TEST(StepLog, SaysWhatIsStuckWhileItIs) {
  StepLog log;
  StepTiming timing{.step = 12, .sequences = 3};
  EXPECT_FALSE(log.StuckFor(0ms));
  {
    const StepLog::Timer timer(log, StepPhase::kCollect, timing);
    EXPECT_FALSE(log.StuckFor(1min));
    std::this_thread::sleep_for(2ms);
    EXPECT_THAT(log.StuckFor(1ms).value_or(""), HasSubstr("running step 12 with 3 sequences for"));
  }
  EXPECT_FALSE(log.StuckFor(0ms));
}

}  // namespace
}  // namespace sluice
