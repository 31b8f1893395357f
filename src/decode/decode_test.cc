#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "decode/decode_strategy.h"

namespace sluice {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

Sequence MakeSequence(std::vector<TokenId> tokens, int kv_length) {
  Sequence sequence;
  sequence.prompt_length = 1;
  sequence.tokens = std::move(tokens);
  sequence.kv_length = kv_length;
  return sequence;
}

SliceResult Samples(const std::vector<TokenId>& tokens) {
  SliceResult result;
  for (TokenId token : tokens) result.samples.push_back({.token = token});
  return result;
}

std::vector<TokenId> Tokens(const StepOutcome& outcome) {
  std::vector<TokenId> tokens;
  for (const SampledToken& sampled : outcome.committed) tokens.push_back(sampled.token);
  return tokens;
}

SequenceSlice SliceOf(const StepDemand& demand) {
  return {.tokens = demand.tokens,
          .positions = demand.positions,
          .kv_positions = demand.kv_positions,
          .kv_length = demand.kv_length,
          .sample_rows = demand.sample_rows};
}

TEST(Autoregressive, CutsAPrefillIntoChunks) {
  const auto strategy = MakeAutoregressive();
  Sequence sequence = MakeSequence({5, 6, 7, 8, 9}, 0);
  const StepDemand first = strategy->Demand(sequence, 3);
  EXPECT_THAT(first.tokens, ElementsAre(5, 6, 7));
  EXPECT_THAT(first.positions, ElementsAre(0, 1, 2));
  EXPECT_THAT(first.kv_positions, ElementsAre(0, 1, 2));
  EXPECT_THAT(first.sample_rows, IsEmpty());
  EXPECT_EQ(first.kv_length, 3);
  const StepOutcome after = strategy->Accept(sequence, SliceOf(first), {});
  EXPECT_THAT(after.committed, IsEmpty());
  EXPECT_EQ(after.kv_length, 3);

  sequence.kv_length = 3;
  const StepDemand second = strategy->Demand(sequence, 3);
  EXPECT_THAT(second.tokens, ElementsAre(8, 9));
  EXPECT_THAT(second.sample_rows, ElementsAre(1));
  const StepOutcome end = strategy->Accept(sequence, SliceOf(second), Samples({4}));
  EXPECT_THAT(Tokens(end), ElementsAre(4));
  EXPECT_EQ(end.kv_length, 5);
}

TEST(Autoregressive, RefusesSamplesThatDoNotMatch) {
  const auto strategy = MakeAutoregressive();
  const Sequence sequence = MakeSequence({5, 6}, 1);
  const StepDemand demand = strategy->Demand(sequence, 1);
  EXPECT_THROW(strategy->Accept(sequence, SliceOf(demand), Samples({})), InternalError);
}

TEST(Autoregressive, RefusesASequenceWithNothingToRun) {
  EXPECT_THROW(MakeAutoregressive()->Demand(MakeSequence({5, 6}, 2), 1), InternalError);
}

TEST(Ngram, DraftsWhatFollowedTheLatestOccurrence) {
  const auto strategy = MakeNgram(2, 3);
  const Sequence sequence = MakeSequence({1, 2, 9, 1, 2, 3, 4, 5, 1, 2}, 9);
  const StepDemand demand = strategy->Demand(sequence, 8);
  EXPECT_THAT(demand.tokens, ElementsAre(2, 3, 4, 5));
  EXPECT_THAT(demand.positions, ElementsAre(9, 10, 11, 12));
  EXPECT_THAT(demand.sample_rows, ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(demand.kv_length, 13);
}

TEST(Ngram, KeepsToMaxRows) {
  const auto strategy = MakeNgram(1, 5);
  const Sequence sequence = MakeSequence({1, 2, 3, 4, 5, 1}, 5);
  EXPECT_THAT(strategy->Demand(sequence, 3).tokens, ElementsAre(1, 2, 3));
  EXPECT_THAT(strategy->Demand(sequence, 1).tokens, ElementsAre(1));
}

TEST(Ngram, GoesOnInItsOwnDrafts) {
  const auto strategy = MakeNgram(2, 4);
  EXPECT_THAT(strategy->Demand(MakeSequence({7, 7, 7}, 2), 9).tokens, ElementsAre(7, 7, 7, 7, 7));
  EXPECT_THAT(strategy->Demand(MakeSequence({1, 2, 1, 2}, 3), 9).tokens,
              ElementsAre(2, 1, 2, 1, 2));
}

TEST(Ngram, DraftsNothingInAPrefillOrWithoutAMatch) {
  const auto strategy = MakeNgram(2, 4);
  EXPECT_THAT(strategy->Demand(MakeSequence({1, 2, 3, 1, 2}, 3), 9).tokens, ElementsAre(1, 2));
  EXPECT_THAT(strategy->Demand(MakeSequence({1, 2, 3, 4}, 3), 9).tokens, ElementsAre(4));
  EXPECT_THAT(strategy->Demand(MakeSequence({1}, 0), 9).tokens, ElementsAre(1));
  EXPECT_THAT(strategy->Demand(MakeSequence({1, 1}, 1), 9).tokens, ElementsAre(1));
}

TEST(Ngram, CommitsUpToTheFirstWrongDraft) {
  const auto strategy = MakeNgram(2, 3);
  const Sequence sequence = MakeSequence({1, 2, 3, 4, 5, 1, 2}, 6);
  const StepDemand demand = strategy->Demand(sequence, 8);
  ASSERT_THAT(demand.tokens, ElementsAre(2, 3, 4, 5));

  const StepOutcome all = strategy->Accept(sequence, SliceOf(demand), Samples({3, 4, 5, 8}));
  EXPECT_THAT(Tokens(all), ElementsAre(3, 4, 5, 8));
  EXPECT_EQ(all.kv_length, 10);

  const StepOutcome some = strategy->Accept(sequence, SliceOf(demand), Samples({3, 9, 5, 8}));
  EXPECT_THAT(Tokens(some), ElementsAre(3, 9));
  EXPECT_EQ(some.kv_length, 8);

  const StepOutcome none = strategy->Accept(sequence, SliceOf(demand), Samples({9, 4, 5, 8}));
  EXPECT_THAT(Tokens(none), ElementsAre(9));
  EXPECT_EQ(none.kv_length, 7);
}

}  // namespace
}  // namespace sluice
