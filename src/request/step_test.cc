#include "request/step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace sluice {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

SequenceSlice SliceWithDrafts() {
  SequenceSlice slice;
  slice.tokens = {10, 11, 12};
  slice.sample_rows = {0, 1, 2};
  slice.sample.prompt_length = 2;
  slice.sample.generated = 1;
  slice.sample.history = {8, 9, 10};
  return slice;
}

TEST(StepPlan, ATokenInOneOfSeveralLayerGroupsCountsAsItsShare) {
  StepPlan plan;
  EXPECT_EQ(plan.NumWholeTokens(), 0);
  plan.slices = {SliceWithDrafts(), SliceWithDrafts()};
  EXPECT_EQ(plan.NumWholeTokens(), 6);
  plan.slices[1].layers = {.nth = 1, .of = 2};
  EXPECT_EQ(plan.NumWholeTokens(), 3 + 2);
  EXPECT_EQ(plan.NumTokens(), 6);
}

TEST(ContextOfSample, LaterRowsSeeTheDraftsBeforeThem) {
  const SequenceSlice slice = SliceWithDrafts();
  EXPECT_THAT(slice.ContextOfSample(0).history, ElementsAre(8, 9, 10));
  EXPECT_EQ(slice.ContextOfSample(0).generated, 1);
  EXPECT_THAT(slice.ContextOfSample(2).history, ElementsAre(8, 9, 10, 11, 12));
  EXPECT_EQ(slice.ContextOfSample(2).generated, 3);
}

TEST(ContextOfSample, KeepsAnEmptyHistoryEmpty) {
  SequenceSlice slice = SliceWithDrafts();
  slice.sample.history.clear();
  EXPECT_THAT(slice.ContextOfSample(1).history, IsEmpty());
  EXPECT_EQ(slice.ContextOfSample(1).generated, 2);
}

TEST(ContextOfSample, RefusesARowThatIsNotSampled) {
  EXPECT_THROW(SliceWithDrafts().ContextOfSample(3), InternalError);
}

TEST(ContiguousSlice, TakesAWindowOfTheTokensAndThePagesBelowItsEnd) {
  const std::vector<TokenId> tokens = {4, 5, 6, 7, 8, 9};
  const SequenceSlice slice = ContiguousSlice(3, tokens, 2, 5, /*first_page=*/10, /*page_size=*/2);
  EXPECT_EQ(slice.sequence, 3u);
  EXPECT_THAT(slice.tokens, ElementsAre(6, 7, 8));
  EXPECT_THAT(slice.positions, ElementsAre(2, 3, 4));
  EXPECT_EQ(slice.kv_positions, slice.positions);
  EXPECT_THAT(slice.pages, ElementsAre(10, 11, 12));
  EXPECT_EQ(slice.kv_length, 5);
  EXPECT_THAT(slice.sample_rows, IsEmpty());
}

}  // namespace
}  // namespace sluice
