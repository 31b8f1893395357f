#include "sched/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.h"
#include "sched/testing.h"

namespace sluice {
namespace {

using testing::Answer;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::kEos;
using testing::MakeRequest;
using testing::SchedulerTest;
using ::testing::SizeIs;
using testing::SmallConfig;

std::vector<TokenId> Tokens(const Output& output) {
  std::vector<TokenId> tokens;
  for (const SampledToken& sampled : output.tokens) tokens.push_back(sampled.token);
  return tokens;
}

std::string RefusalOf(const Scheduler& scheduler, const Request& request) {
  try {
    scheduler.CheckFits(request);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "";
}

TEST_F(SchedulerTest, CutsPromptsIntoTheBudget) {
  scheduler_.Add(1, MakeRequest(12), 0);
  EXPECT_THAT(Step(7), IsEmpty());
  EXPECT_THAT(plan_.slices[0].tokens, SizeIs(8));
  EXPECT_THAT(plan_.slices[0].sample_rows, IsEmpty());
  const auto reports = Step(7);
  EXPECT_THAT(plan_.slices[0].positions, ElementsAre(8, 9, 10, 11));
  EXPECT_THAT(plan_.slices[0].pages, SizeIs(3));
  ASSERT_THAT(reports, SizeIs(1));
  EXPECT_THAT(Tokens(reports[0].output), ElementsAre(7));
}

TEST_F(SchedulerTest, DecodesComeBeforePrefills) {
  scheduler_.Add(1, MakeRequest(2), 0);
  Step(7);
  scheduler_.Add(2, MakeRequest(20), 0);
  Step(7);
  ASSERT_THAT(plan_.slices, SizeIs(2));
  EXPECT_THAT(plan_.slices[0].tokens, ElementsAre(7));
  EXPECT_THAT(plan_.slices[1].tokens, SizeIs(7));
}

TEST_F(SchedulerTest, StopTokenEndsAndIsReported) {
  scheduler_.Add(1, MakeRequest(2, {.stop_token_ids = {7}}), 0);
  const auto reports = Step(7);
  ASSERT_THAT(reports, SizeIs(1));
  EXPECT_THAT(Tokens(reports[0].output), ElementsAre(7));
  EXPECT_EQ(reports[0].output.finish, FinishReason::kStop);
  EXPECT_TRUE(scheduler_.idle());
  EXPECT_EQ(scheduler_.Stats().pages_used, 0);
}

TEST_F(SchedulerTest, EndOfSequenceHeedsIgnoreEosAndMinTokens) {
  scheduler_.Add(1, MakeRequest(1), 0);
  scheduler_.Add(2, MakeRequest(1, {.max_tokens = 3, .ignore_eos = true}), 0);
  scheduler_.Add(3, MakeRequest(1, {.max_tokens = 3, .min_tokens = 1, .stop_token_ids = {8}}), 0);
  auto reports = Step(kEos);
  EXPECT_THAT(plan_.slices[0].sample.end_ids, IsEmpty());
  EXPECT_THAT(plan_.slices[2].sample.end_ids, ElementsAre(kEos, 8));
  ASSERT_THAT(reports, SizeIs(3));
  EXPECT_EQ(reports[0].output.finish, FinishReason::kStop);
  EXPECT_FALSE(reports[1].output.finish);
  EXPECT_FALSE(reports[2].output.finish);
  reports = Step(kEos);
  EXPECT_THAT(plan_.slices[1].sample.end_ids, IsEmpty());
  EXPECT_FALSE(reports[0].output.finish);
  EXPECT_EQ(reports[1].output.finish, FinishReason::kStop);
  reports = Step(kEos);
  EXPECT_EQ(reports[0].output.finish, FinishReason::kLength);
}

TEST_F(SchedulerTest, ContextEndsASequence) {
  scheduler_.Add(1, MakeRequest(30, {.max_tokens = 1000}), 0);
  int tokens = 0;
  std::optional<FinishReason> finish;
  while (!scheduler_.idle()) {
    for (const auto& report : Step(7)) {
      tokens += static_cast<int>(report.output.tokens.size());
      finish = report.output.finish;
    }
  }
  EXPECT_EQ(tokens, 2);
  EXPECT_EQ(finish, FinishReason::kLength);
}

TEST_F(SchedulerTest, RefusesWhatCanNeverRun) {
  EXPECT_THAT(RefusalOf(scheduler_, MakeRequest(0)), HasSubstr("at least one token"));
  EXPECT_EQ(RefusalOf(scheduler_, MakeRequest(31)), "");
  EXPECT_THAT(RefusalOf(scheduler_, MakeRequest(32)),
              ::testing::AllOf(HasSubstr("32 tokens"), HasSubstr("context")));
  SchedulerConfig few_pages = SmallConfig();
  few_pages.num_pages = 3;
  const Scheduler small(few_pages, *strategy_);
  EXPECT_EQ(RefusalOf(small, MakeRequest(11)), "");
  EXPECT_THAT(RefusalOf(small, MakeRequest(12)),
              ::testing::AllOf(HasSubstr("12 tokens"), HasSubstr("3 pages of 4")));
}

TEST_F(SchedulerTest, RefusesABudgetBelowTheBatch) {
  SchedulerConfig config = SmallConfig();
  config.max_num_batched_tokens = 3;
  EXPECT_THROW(Scheduler(config, *strategy_), Error);
}

TEST_F(SchedulerTest, MakesNSequencesWithSeedsOfTheirOwn) {
  scheduler_.Add(1, MakeRequest(2, {.n = 3}), 42);
  Step(7);
  ASSERT_THAT(plan_.slices, SizeIs(3));
  EXPECT_EQ(plan_.slices[0].sample.seed, 42u);
  EXPECT_NE(plan_.slices[1].sample.seed, 42u);
  EXPECT_NE(plan_.slices[1].sample.seed, plan_.slices[2].sample.seed);
  const auto one = scheduler_.EndSequence(1, 1, FinishReason::kStop);
  ASSERT_THAT(one, SizeIs(1));
  EXPECT_EQ(one[0].output.index, 1);
  EXPECT_EQ(one[0].output.finish, FinishReason::kStop);
  EXPECT_THAT(scheduler_.End(1, FinishReason::kAbort), SizeIs(2));
  EXPECT_THAT(scheduler_.End(1, FinishReason::kAbort), IsEmpty());
  EXPECT_EQ(scheduler_.Stats().pages_used, 0);
}

TEST_F(SchedulerTest, ScoresEachPromptTokenOnceOverChunks) {
  scheduler_.Add(1, MakeRequest(11, {.prompt_logprobs = 2}), 0);
  EXPECT_THAT(Step(7), IsEmpty());
  EXPECT_THAT(plan_.slices[0].score_rows, SizeIs(8));
  EXPECT_EQ(plan_.slices[0].sample.params.prompt_logprobs, 2);
  const auto reports = Step(7);
  EXPECT_THAT(plan_.slices[0].score_rows, SizeIs(2));
  ASSERT_THAT(reports, SizeIs(1));
  EXPECT_THAT(reports[0].output.prompt, SizeIs(10));
  EXPECT_THAT(Step(7)[0].output.prompt, IsEmpty());
}

TEST_F(SchedulerTest, FillsTheHistoryOnlyForPenalties) {
  scheduler_.Add(1, MakeRequest(2), 0);
  scheduler_.Add(2, MakeRequest(2, {.presence_penalty = 1.0f}), 0);
  Step(7);
  Step(8);
  EXPECT_THAT(plan_.slices[0].sample.history, IsEmpty());
  EXPECT_THAT(plan_.slices[1].sample.history, ElementsAre(5, 5, 7));
  EXPECT_EQ(plan_.slices[1].sample.generated, 1);
}

TEST_F(SchedulerTest, AFailedStepEndsItsSequencesOnly) {
  scheduler_.Add(1, MakeRequest(8), 0);
  scheduler_.Add(2, MakeRequest(3), 0);
  const StepPlan plan = scheduler_.Plan();
  ASSERT_THAT(plan.slices, SizeIs(1));
  const auto reports = scheduler_.Commit(plan, {.step = plan.step, .slices = {}, .error = "boom"});
  ASSERT_THAT(reports, SizeIs(1));
  EXPECT_EQ(reports[0].request, 1u);
  EXPECT_EQ(reports[0].output.finish, FinishReason::kError);
  EXPECT_EQ(reports[0].output.error, "boom");
  const auto next = Step(7);
  ASSERT_THAT(next, SizeIs(1));
  EXPECT_EQ(next[0].request, 2u);
}

TEST_F(SchedulerTest, AMalformedResultIsAFailedStep) {
  scheduler_.Add(1, MakeRequest(3), 0);
  const StepPlan plan = scheduler_.Plan();
  StepResult result = Answer(plan, 7);
  result.slices[0].samples.clear();
  const auto reports = scheduler_.Commit(plan, result);
  ASSERT_THAT(reports, SizeIs(1));
  EXPECT_EQ(reports[0].output.finish, FinishReason::kError);
  EXPECT_THAT(reports[0].output.error, HasSubstr("asked for 1 samples"));
}

TEST_F(SchedulerTest, TheLastGivesItsPagesToTheFirst) {
  SchedulerConfig config = SmallConfig();
  config.num_pages = 5;
  Scheduler scheduler(config, *strategy_);
  const auto step = [&] {
    const StepPlan plan = scheduler.Plan();
    scheduler.Commit(plan, Answer(plan, 7));
  };
  scheduler.Add(1, MakeRequest(6, {.max_tokens = 30}), 0);
  step();
  scheduler.Add(2, MakeRequest(3, {.max_tokens = 30}), 0);
  while (scheduler.Stats().preemptions == 0) step();
  ASSERT_THAT(scheduler.running(), SizeIs(1));
  EXPECT_EQ(scheduler.running()[0]->request, 1u);
  ASSERT_EQ(scheduler.waiting().size(), 1u);
  const Sequence& victim = scheduler.waiting().First();
  EXPECT_EQ(victim.request, 2u);
  EXPECT_EQ(victim.kv_length, 0);
  EXPECT_GT(victim.num_generated(), 0);
}

TEST_F(SchedulerTest, TheLeastPriorityGivesItsPagesUpFirst) {
  SchedulerConfig config = SmallConfig();
  config.num_pages = 5;
  Scheduler scheduler(config, *strategy_);
  const auto step = [&] {
    const StepPlan plan = scheduler.Plan();
    scheduler.Commit(plan, Answer(plan, 7));
  };
  Request request = MakeRequest(6, {.max_tokens = 30});
  request.priority = 1;
  scheduler.Add(1, request, 0);
  step();
  scheduler.Add(2, MakeRequest(3, {.max_tokens = 30}), 0);
  while (scheduler.Stats().preemptions == 0) step();
  ASSERT_THAT(scheduler.running(), SizeIs(1));
  EXPECT_EQ(scheduler.running()[0]->request, 2u);
}

TEST_F(SchedulerTest, PrioritySettlesWhosePromptRunsFirst) {
  scheduler_.Add(1, MakeRequest(7), 0);
  Request urgent = MakeRequest(7);
  urgent.priority = -1;
  scheduler_.Add(2, urgent, 0);
  const auto reports = Step(7);
  ASSERT_THAT(reports, SizeIs(1));
  EXPECT_EQ(reports[0].request, 2u);
  EXPECT_THAT(plan_.slices, SizeIs(2));
  EXPECT_THAT(plan_.slices[1].tokens, SizeIs(1));
}

TEST_F(SchedulerTest, ALongPromptLeavesRowsToAShortOne) {
  scheduler_.Add(1, MakeRequest(26), 0);
  Step(7);
  ASSERT_THAT(plan_.slices, SizeIs(1));
  scheduler_.Add(2, MakeRequest(3), 0);
  const auto reports = Step(7);
  ASSERT_THAT(plan_.slices, SizeIs(2));
  EXPECT_THAT(plan_.slices[0].tokens, SizeIs(5));
  ASSERT_THAT(reports, SizeIs(1));
  EXPECT_EQ(reports[0].request, 2u);
}

// Two sequences of which the second has just been swapped out.

// A step that is planned while the one before is under way.
class PlanAheadTest : public SchedulerTest {
 protected:
  // Plans a step, which is to have slices of these sequences.
  StepPlan PlanOf(const std::vector<SequenceId>& sequences) {
    StepPlan plan = scheduler_.Plan();
    std::vector<SequenceId> planned;
    for (const SequenceSlice& slice : plan.slices) planned.push_back(slice.sequence);
    EXPECT_EQ(planned, sequences);
    return plan;
  }
  std::vector<SequenceReport> CommitAll(const StepPlan& plan, TokenId token) {
    return scheduler_.Commit(plan, Answer(plan, token));
  }
};

TEST_F(PlanAheadTest, HasTheTokenThatIsNotKnownYet) {
  scheduler_.Add(1, MakeRequest(4, {.max_tokens = 3}), 0);
  scheduler_.Add(2, MakeRequest(8, {.max_tokens = 3}), 0);
  const StepPlan first = PlanOf({1, 2});  // all of one prompt, half of the other
  const StepPlan second = PlanOf({1, 2});
  EXPECT_EQ(second.step, first.step + 1);
  EXPECT_THAT(second.slices[0].tokens, ElementsAre(TokenDrawnBy(0)));
  EXPECT_THAT(second.slices[0].positions, ElementsAre(4));
  EXPECT_THAT(second.slices[0].pages, SizeIs(2));
  EXPECT_EQ(second.slices[0].sample.generated, 1);
  EXPECT_THAT(second.slices[1].positions, ElementsAre(4, 5, 6, 7));
  EXPECT_THAT(second.slices[1].tokens, ElementsAre(5, 5, 5, 5));

  // What is committed is as if each step had been planned in its turn.
  EXPECT_EQ(scheduler_.running()[0]->length(), 4);
  EXPECT_THAT(CommitAll(first, 7), SizeIs(1));
  EXPECT_THAT(scheduler_.running()[0]->tokens, ElementsAre(5, 5, 5, 5, 7));
  EXPECT_EQ(scheduler_.running()[0]->kv_length, 4);
  EXPECT_EQ(scheduler_.running()[1]->kv_length, 4);
  const StepPlan third = PlanOf({1, 2});
  EXPECT_THAT(third.slices[1].tokens, ElementsAre(TokenDrawnBy(1)));
  EXPECT_THAT(CommitAll(second, 8), SizeIs(2));
  PlanOf({2});  // the other ends with the step under way
  const auto last = CommitAll(third, 9);
  ASSERT_THAT(last, SizeIs(2));
  EXPECT_EQ(last[0].output.finish, FinishReason::kLength);
}

TEST_F(PlanAheadTest, DropsTheRowOfASequenceThatEnded) {
  scheduler_.Add(1, MakeRequest(2, {.stop_token_ids = {7}}), 0);
  scheduler_.Add(2, MakeRequest(2, {.max_tokens = 9}), 0);
  const StepPlan first = PlanOf({1, 2});
  const StepPlan second = PlanOf({1, 2});
  const auto reports = CommitAll(first, 7);
  ASSERT_THAT(reports, SizeIs(2));
  EXPECT_EQ(reports[0].output.finish, FinishReason::kStop);
  EXPECT_EQ(scheduler_.Stats().pages_used, 1);
  const auto next = CommitAll(second, 8);
  ASSERT_THAT(next, SizeIs(1));
  EXPECT_EQ(next[0].request, 2u);
  EXPECT_EQ(scheduler_.Stats().generation_tokens, 3u);
}

TEST_F(PlanAheadTest, ASequenceMayBeEndedInFlight) {
  scheduler_.Add(1, MakeRequest(2), 0);
  scheduler_.Add(2, MakeRequest(2), 0);
  const StepPlan first = PlanOf({1, 2});
  const StepPlan second = PlanOf({1, 2});
  EXPECT_THAT(scheduler_.End(1, FinishReason::kAbort), SizeIs(1));
  EXPECT_THAT(CommitAll(first, 7), SizeIs(1));
  const StepPlan third = PlanOf({2});
  EXPECT_THAT(third.slices[0].tokens, ElementsAre(TokenDrawnBy(1)));
  EXPECT_THAT(scheduler_.EndAll(FinishReason::kAbort, ""), SizeIs(1));
  EXPECT_THAT(CommitAll(second, 7), IsEmpty());
  EXPECT_THAT(CommitAll(third, 7), IsEmpty());
  EXPECT_TRUE(scheduler_.idle());
  EXPECT_EQ(scheduler_.Stats().pages_used, 0);
}

TEST_F(PlanAheadTest, AFailedStepSparesWhatOnlyTheNextOneRuns) {
  scheduler_.Add(1, MakeRequest(8), 0);
  const StepPlan first = PlanOf({1});
  scheduler_.Add(2, MakeRequest(3), 0);
  const StepPlan second = PlanOf({1, 2});
  const auto failed = scheduler_.Commit(first, {.step = first.step, .slices = {}, .error = "boom"});
  ASSERT_THAT(failed, SizeIs(1));
  EXPECT_EQ(failed[0].output.finish, FinishReason::kError);
  const auto next = CommitAll(second, 7);
  ASSERT_THAT(next, SizeIs(1));
  EXPECT_EQ(next[0].request, 2u);
  EXPECT_FALSE(next[0].output.finish);
}

TEST_F(PlanAheadTest, APageIsKnownWhenTheStepThatFilledItIsCommitted) {
  scheduler_.Add(1, MakeRequest(6, {.max_tokens = 5}), 0);
  const StepPlan first = PlanOf({1});
  scheduler_.Add(2, MakeRequest(6, {.max_tokens = 5}), 0);
  const StepPlan second = PlanOf({1, 2});
  EXPECT_THAT(second.slices[1].positions, SizeIs(6));
  EXPECT_NE(second.slices[1].pages[0], second.slices[0].pages[0]);
  CommitAll(first, 7);
  scheduler_.Add(3, MakeRequest(6, {.max_tokens = 5}), 0);
  const StepPlan third = PlanOf({1, 2, 3});
  EXPECT_THAT(third.slices[2].positions, ElementsAre(4, 5));
  EXPECT_EQ(third.slices[2].pages[0], third.slices[0].pages[0]);
  // What the second sequence wrote is dropped for what was known first, though the third step,
  // which is under way, reads it.
  EXPECT_EQ(third.slices[1].pages[0], second.slices[1].pages[0]);
  CommitAll(second, 7);
  EXPECT_EQ(scheduler_.running()[1]->pages[0], scheduler_.running()[0]->pages[0]);
  EXPECT_EQ(scheduler_.pages().shares(third.slices[1].pages[0]), 0);
  CommitAll(third, 7);
}

TEST_F(PlanAheadTest, WaitsForTokensThatTheNextStepIsPlannedBy) {
  scheduler_.Add(1, MakeRequest(2, {.presence_penalty = 1.0f}), 0);
  StepPlan first = PlanOf({1});
  PlanOf({});
  CommitAll(first, 7);
  EXPECT_THAT(scheduler_.End(1, FinishReason::kAbort), SizeIs(1));
  scheduler_.Add(2, MakeRequest(2, {.prompt_logprobs = 1}), 0);
  first = PlanOf({2});
  PlanOf({});
  CommitAll(first, 7);

  const auto drafts = MakeNgram(1, 3);
  Scheduler drafting(SmallConfig(), *drafts);
  drafting.Add(1, MakeRequest(2), 0);
  EXPECT_THAT(drafting.Plan().slices, SizeIs(1));
  EXPECT_THAT(drafting.Plan().slices, IsEmpty());
}

TEST_F(PlanAheadTest, WaitsWhereASequenceWouldLoseItsPages) {
  SchedulerConfig config = SmallConfig();
  config.num_pages = 4;
  Scheduler scheduler(config, *strategy_);
  scheduler.Add(1, MakeRequest(7, {.max_tokens = 30}), 0);
  StepPlan plan = scheduler.Plan();
  scheduler.Commit(plan, Answer(plan, 7));
  scheduler.Add(2, MakeRequest(3, {.max_tokens = 30}), 0);
  plan = scheduler.Plan();  // one at 8 of 8 positions, one at 3 of 4, no page in use beyond that
  ASSERT_THAT(plan.slices, SizeIs(2));
  const StepPlan ahead = scheduler.Plan();  // the last page
  EXPECT_THAT(ahead.slices, SizeIs(2));
  scheduler.Commit(plan, Answer(plan, 7));
  EXPECT_THAT(scheduler.Plan().slices, IsEmpty());  // the younger one needs another
  EXPECT_EQ(scheduler.Stats().preemptions, 0u);
  scheduler.Commit(ahead, Answer(ahead, 7));
  EXPECT_THAT(scheduler.Plan().slices, SizeIs(1));
  EXPECT_EQ(scheduler.Stats().preemptions, 1u);
}

// Groups of layers that prompts go through, a step each.
class LayeredPrefillTest : public SchedulerTest {
 protected:
  explicit LayeredPrefillTest(int num_pages = SmallConfig().num_pages)
      : SchedulerTest(Config(num_pages)) {}

  static SchedulerConfig Config(int num_pages) {
    SchedulerConfig config = SmallConfig();
    config.num_pages = num_pages;
    config.prefill_layer_groups = 2;
    return config;
  }

  static constexpr LayerGroup kFirst{.nth = 0, .of = 2};
  static constexpr LayerGroup kLast{.nth = 1, .of = 2};
};

TEST_F(LayeredPrefillTest, SequencesDecodeInEachStepOfAPrompt) {
  scheduler_.Add(1, MakeRequest(2), 0);
  EXPECT_THAT(Step(), SizeIs(1));
  EXPECT_TRUE(plan_.slices[0].layers.IsAll()) << "nobody decodes that would wait for it";
  scheduler_.Add(2, MakeRequest(5), 0);
  EXPECT_THAT(Step(), SizeIs(1));
  ASSERT_THAT(plan_.slices, SizeIs(2));
  EXPECT_TRUE(plan_.slices[0].layers.IsAll());
  EXPECT_EQ(plan_.slices[1].layers, kFirst);
  EXPECT_THAT(plan_.slices[1].tokens, SizeIs(5));
  EXPECT_THAT(plan_.slices[1].sample_rows, IsEmpty());
  const SequenceSlice first = plan_.slices[1];
  EXPECT_THAT(Step(), SizeIs(2));
  ASSERT_THAT(plan_.slices, SizeIs(2));
  EXPECT_EQ(plan_.slices[1].layers, kLast);
  EXPECT_EQ(plan_.slices[1].positions, first.positions);
  EXPECT_EQ(plan_.slices[1].pages, first.pages);
  EXPECT_THAT(plan_.slices[1].sample_rows, ElementsAre(4));
  EXPECT_THAT(Step(), SizeIs(2));
  EXPECT_TRUE(plan_.slices[1].layers.IsAll());
}

TEST_F(LayeredPrefillTest, PromptsBeginOnceOthersAreThrough) {
  scheduler_.Add(1, MakeRequest(2), 0);
  Step();
  scheduler_.Add(2, MakeRequest(10), 0);  // more than a step's budget
  Step();
  EXPECT_THAT(plan_.slices[1].tokens, SizeIs(7));
  scheduler_.Add(3, MakeRequest(2), 0);
  Step();
  ASSERT_THAT(plan_.slices, SizeIs(2));
  EXPECT_EQ(plan_.slices[1].layers, kLast);
  Step();
  ASSERT_THAT(plan_.slices, SizeIs(3));
  EXPECT_THAT(plan_.slices[1].positions, ElementsAre(7, 8, 9));
  EXPECT_EQ(plan_.slices[1].layers, kFirst);
  EXPECT_EQ(plan_.slices[2].layers, kFirst);
  Step();
  EXPECT_THAT(plan_.slices[1].sample_rows, ElementsAre(2));
  EXPECT_THAT(plan_.slices[2].sample_rows, ElementsAre(1));
}

// Two of four decode, with so many tokens left, and steps with prompts take twice the time.
class GatheringTest : public LayeredPrefillTest {
 protected:
  using LayeredPrefillTest::LayeredPrefillTest;

  void Start(int tokens_left, int other_tokens_left) {
    scheduler_.Add(1, MakeRequest(2, {.max_tokens = tokens_left + 5}), 0);
    TimedStep();
    TimedStep();
    scheduler_.Add(2, MakeRequest(2, {.max_tokens = other_tokens_left + 2}), 0);
    TimedStep();
    TimedStep();
    TimedStep();
    ASSERT_THAT(scheduler_.running(), SizeIs(2));
  }

  void TimedStep() {
    plan_ = scheduler_.Plan();
    const bool has_prompts = !plan_.slices.back().layers.IsAll();
    scheduler_.ObserveStep(plan_, has_prompts ? 2.0 : 1.0);
    scheduler_.Commit(plan_, Answer(plan_, 7));
  }

  void AddWaiting(int count, int priority = 0) {
    Request request = MakeRequest(2);
    request.priority = priority;
    for (RequestId id = 10; count > 0; ++id, --count) scheduler_.Add(id, request, 0);
  }
};

TEST_F(GatheringTest, PromptsWaitForAPlaceThatIsFreeSoon) {
  Start(/*tokens_left=*/2, /*other_tokens_left=*/10);
  AddWaiting(3);
  TimedStep();
  EXPECT_THAT(plan_.slices, SizeIs(2));
  TimedStep();
  EXPECT_THAT(plan_.slices, SizeIs(2));
  TimedStep();
  EXPECT_THAT(plan_.slices, SizeIs(1 + 3)) << "the first has ended";
  EXPECT_EQ(scheduler_.Stats().steps_put_off, 2u);
}

TEST_F(GatheringTest, NotWhereAllWhoWaitHaveAPlace) {
  Start(2, 10);
  AddWaiting(2);
  TimedStep();
  EXPECT_THAT(plan_.slices, SizeIs(2 + 2));
}

TEST_F(GatheringTest, NotForAnEndThatIsFar) {
  Start(10, 10);
  AddWaiting(3);
  TimedStep();
  EXPECT_THAT(plan_.slices, SizeIs(2 + 2));
}

TEST_F(GatheringTest, NotWhereTheFirstIsMoreUrgent) {
  Start(2, 10);
  AddWaiting(3, /*priority=*/-1);
  TimedStep();
  EXPECT_THAT(plan_.slices, SizeIs(2 + 2));
}

TEST_F(GatheringTest, NotForOthersThatAreLessUrgent) {
  Start(2, 10);
  AddWaiting(3, /*priority=*/1);
  scheduler_.Add(20, MakeRequest(2), 0);
  TimedStep();
  EXPECT_THAT(plan_.slices, SizeIs(2 + 2)) << "as the first begins, a second does";
}

TEST_F(GatheringTest, WhatWasWaitedInVainDoesNotCount) {
  Start(4, 5);
  AddWaiting(3);
  TimedStep();
  TimedStep();
  EXPECT_EQ(scheduler_.Stats().steps_put_off, 2u) << "with two places free";
  for (RequestId id = 10; id < 13; ++id) scheduler_.End(id, FinishReason::kAbort);
  TimedStep();
  scheduler_.End(1, FinishReason::kAbort);
  AddWaiting(4);
  TimedStep();
  EXPECT_EQ(scheduler_.Stats().steps_put_off, 3u)
      << "three, for two steps, of eight that a pass costs";
}

class GatheringOverFewPagesTest : public GatheringTest {
 protected:
  GatheringOverFewPagesTest() : GatheringTest(/*num_pages=*/8) {}
};

TEST_F(GatheringOverFewPagesTest, WhoGoesOnWithAnAnswerWaitsForNobody) {
  scheduler_.Add(1, MakeRequest(2, {.max_tokens = 14}), 0);
  TimedStep();
  scheduler_.Add(2, MakeRequest(7, {.max_tokens = 20}), 0);
  scheduler_.Add(3, MakeRequest(2, {.max_tokens = 20}), 0);
  while (scheduler_.Stats().preemptions == 0) TimedStep();
  ASSERT_THAT(scheduler_.running(), SizeIs(2));
  const Sequence& ends_soon = *scheduler_.running().front();
  ASSERT_EQ(ends_soon.params.max_tokens - ends_soon.num_generated(), 2);
  scheduler_.End(2, FinishReason::kAbort);
  AddWaiting(4);
  TimedStep();
  ASSERT_GE(plan_.slices.size(), 2u);
  EXPECT_EQ(plan_.slices[1].sequence, 3u);
  EXPECT_EQ(scheduler_.Stats().steps_put_off, 0u);
}

TEST_F(GatheringTest, DoesNotCountWhereNobodyHasAPlace) {
  Start(12, 20);
  scheduler_.Add(3, MakeRequest(20), 0);
  for (int step = 0; step < 8; ++step) TimedStep();
  ASSERT_THAT(plan_.slices, SizeIs(3));
  for (RequestId id = 10; id < 13; ++id) scheduler_.Add(id, MakeRequest(28), 0);
  for (int step = 0; step < 4; ++step) TimedStep();
  EXPECT_THAT(scheduler_.running(), SizeIs(2)) << "the first has ended";
  EXPECT_EQ(scheduler_.Stats().steps_put_off, 0u) << "there were no pages";
}

TEST_F(GatheringTest, NotBesidePromptsThatGoAnyway) {
  Start(3, 10);
  scheduler_.Add(3, MakeRequest(10), 0);  // more than a step's budget
  TimedStep();
  TimedStep();
  AddWaiting(2);
  TimedStep();
  EXPECT_THAT(plan_.slices, SizeIs(2 + 2)) << "the long prompt's next rows, and one that waited";
}

TEST_F(LayeredPrefillTest, WhatEndsBetweenLayersIsGone) {
  scheduler_.Add(1, MakeRequest(2), 0);
  Step();
  scheduler_.Add(2, MakeRequest(3), 0);
  scheduler_.Add(3, MakeRequest(3), 0);
  Step();
  EXPECT_THAT(scheduler_.End(2, FinishReason::kAbort), SizeIs(1));
  Step();
  ASSERT_THAT(plan_.slices, SizeIs(2));
  EXPECT_EQ(plan_.slices[1].sequence, 3u);
  EXPECT_EQ(plan_.slices[1].layers, kLast);
  scheduler_.Add(4, MakeRequest(3), 0);
  Step();
  EXPECT_THAT(scheduler_.End(4, FinishReason::kAbort), SizeIs(1));
  Step();
  EXPECT_THAT(plan_.slices, SizeIs(2));
  EXPECT_THAT(scheduler_.EndAll(FinishReason::kAbort, ""), SizeIs(2));
  EXPECT_EQ(scheduler_.Stats().pages_used, 0);
}

TEST_F(LayeredPrefillTest, ADecodingSequenceThatEndsLeavesAPromptBetweenLayers) {
  scheduler_.Add(1, MakeRequest(2), 0);
  Step();
  scheduler_.Add(2, MakeRequest(3), 0);
  Step();
  scheduler_.End(1, FinishReason::kAbort);
  EXPECT_THAT(Step(), SizeIs(1));
  ASSERT_THAT(plan_.slices, SizeIs(1));
  EXPECT_EQ(plan_.slices[0].layers, kLast);
}

TEST(SchedulerWithDrafts, TrimsWhatComesAfterTheEnd) {
  const auto strategy = MakeNgram(1, 3);
  Scheduler scheduler(SmallConfig(), *strategy);
  scheduler.Add(1, MakeRequest(3, {.max_tokens = 10, .stop_token_ids = {6}}), 0);
  StepPlan plan = scheduler.Plan();
  scheduler.Commit(plan, Answer(plan, 5));
  plan = scheduler.Plan();
  ASSERT_THAT(plan.slices[0].tokens, ElementsAre(5, 5, 5, 5));
  StepResult result = Answer(plan, 5);
  result.slices[0].samples[1].token = 6;
  const auto reports = scheduler.Commit(plan, result);
  ASSERT_THAT(reports, SizeIs(1));
  EXPECT_THAT(Tokens(reports[0].output), ElementsAre(5, 6));
  EXPECT_EQ(reports[0].output.finish, FinishReason::kStop);
}

TEST(SchedulerWithDrafts, KeepsDraftsWithinMaxTokensAndTheContext) {
  const auto strategy = MakeNgram(1, 6);
  Scheduler scheduler(SmallConfig(), *strategy);
  scheduler.Add(1, MakeRequest(3, {.max_tokens = 4}), 0);
  StepPlan plan = scheduler.Plan();
  scheduler.Commit(plan, Answer(plan, 5));
  plan = scheduler.Plan();
  EXPECT_THAT(plan.slices[0].tokens, SizeIs(3));
  const auto reports = scheduler.Commit(plan, Answer(plan, 5));
  EXPECT_THAT(Tokens(reports[0].output), SizeIs(3));
  EXPECT_EQ(reports[0].output.finish, FinishReason::kLength);
}

TEST(SchedulerWithDrafts, PromptsKeepHalfOfTheSpareRows) {
  const auto strategy = MakeNgram(1, 7);
  Scheduler scheduler(SmallConfig(), *strategy);
  scheduler.Add(1, MakeRequest(3, {.max_tokens = 20}), 0);
  StepPlan plan = scheduler.Plan();
  scheduler.Commit(plan, Answer(plan, 5));
  scheduler.Add(2, MakeRequest(20), 0);
  plan = scheduler.Plan();
  ASSERT_THAT(plan.slices, SizeIs(2));
  EXPECT_THAT(plan.slices[0].tokens, SizeIs(4));
  EXPECT_THAT(plan.slices[1].tokens, SizeIs(4));
}

}  // namespace
}  // namespace sluice
