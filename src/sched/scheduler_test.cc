#include "sched/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace sluice {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr TokenId kEos = 99;

SchedulerConfig SmallConfig() {
  return {.max_num_seqs = 4,
          .max_num_batched_tokens = 8,
          .max_model_len = 32,
          .page_size = 4,
          .num_pages = 16,
          .eos_ids = {kEos}};
}

Request MakeRequest(int prompt, SamplingParams sampling = {}) {
  Request request{.prompt = std::vector<TokenId>(static_cast<size_t>(prompt), 5),
                  .sampling = std::move(sampling)};
  return request;
}

// A result that answers every sample row with `token`.
StepResult Answer(const StepPlan& plan, TokenId token) {
  StepResult result{.step = plan.step, .slices = {}, .error = ""};
  for (const SequenceSlice& slice : plan.slices) {
    SliceResult answer{.sequence = slice.sequence, .samples = {}, .scores = {}};
    for (size_t i = 0; i < slice.sample_rows.size(); ++i)
      answer.samples.push_back({.token = token});
    for (const auto& row : slice.score_rows) answer.scores.push_back({.token = row.target});
    result.slices.push_back(answer);
  }
  return result;
}

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

class SchedulerTest : public testing::Test {
 protected:
  std::vector<SequenceReport> Step(TokenId token) {
    plan_ = scheduler_.Plan();
    return scheduler_.Commit(plan_, Answer(plan_, token));
  }

  std::unique_ptr<DecodeStrategy> strategy_ = MakeAutoregressive();
  Scheduler scheduler_{SmallConfig(), *strategy_};
  StepPlan plan_;
};

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
              testing::AllOf(HasSubstr("32 tokens"), HasSubstr("context")));
  SchedulerConfig few_pages = SmallConfig();
  few_pages.num_pages = 3;
  const Scheduler small(few_pages, *strategy_);
  EXPECT_EQ(RefusalOf(small, MakeRequest(11)), "");
  EXPECT_THAT(RefusalOf(small, MakeRequest(12)),
              testing::AllOf(HasSubstr("12 tokens"), HasSubstr("3 pages of 4")));
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
class SwappingTest : public SchedulerTest {
 protected:
  explicit SwappingTest(bool prefix_caching = false) {
    SchedulerConfig config = SmallConfig();
    config.num_pages = 5;
    config.num_host_pages = 3;
    config.enable_prefix_caching = prefix_caching;
    swapping_.emplace(config, *strategy_);
    swapping_->Add(1, MakeRequest(6, {.max_tokens = 30}), 0);
    plan_ = swapping_->Plan();
    swapping_->Commit(plan_, Answer(plan_, 7));
    swapping_->Add(2, MakeRequest(3, {.max_tokens = 30}), 0);
    for (plan_ = swapping_->Plan(); plan_.swap_out.empty(); plan_ = swapping_->Plan()) {
      swapping_->Commit(plan_, Answer(plan_, 7));
    }
  }

  std::optional<Scheduler> swapping_;
};

TEST_F(SwappingTest, WhatWasSwappedOutComesBack) {
  EXPECT_EQ(swapping_->Stats().preemptions, 1u);
  const Sequence& waiting = swapping_->waiting().First();
  EXPECT_EQ(waiting.swapped_length, waiting.length() - 1);
  EXPECT_EQ(swapping_->Stats().pages_swapped_out, plan_.swap_out.size());
  EXPECT_EQ(swapping_->host_pages().num_free(), 3 - std::ssize(plan_.swap_out));
  const int swapped = waiting.swapped_length;
  const std::vector<PageCopy> out = plan_.swap_out;
  swapping_->Commit(plan_, Answer(plan_, 7));
  swapping_->End(1, FinishReason::kAbort);

  const StepPlan back = swapping_->Plan();
  ASSERT_THAT(back.slices, SizeIs(1));
  EXPECT_THAT(back.slices[0].positions, ElementsAre(swapped));
  ASSERT_EQ(back.swap_in.size(), out.size());
  for (size_t i = 0; i < out.size(); ++i) {
    EXPECT_EQ(back.swap_in[i].from, out[i].to);
    EXPECT_EQ(back.swap_in[i].to, back.slices[0].pages[i]);
  }
  EXPECT_EQ(swapping_->host_pages().num_free(), 3);
  EXPECT_THAT(swapping_->admitted(), IsEmpty());
}

TEST_F(SwappingTest, AStepThatFailedHasSwappedNothing) {
  swapping_->End(1, FinishReason::kAbort);
  EXPECT_THAT(swapping_->Plan().slices, IsEmpty()) << "it came back before its copies were known";
  swapping_->Commit(plan_, {.step = plan_.step, .slices = {}, .error = "boom"});
  EXPECT_EQ(swapping_->host_pages().num_free(), 3);
  const StepPlan again = swapping_->Plan();
  EXPECT_THAT(again.swap_in, IsEmpty());
  ASSERT_THAT(again.slices, SizeIs(1));
  EXPECT_EQ(again.slices[0].positions.front(), 0);
}

TEST_F(SwappingTest, AnEndGivesTheHostsPagesBack) {
  swapping_->Commit(plan_, Answer(plan_, 7));
  EXPECT_THAT(swapping_->End(2, FinishReason::kAbort), SizeIs(1));
  EXPECT_EQ(swapping_->host_pages().num_free(), 3);
}

class SwappingKnownPagesTest : public SwappingTest {
 protected:
  SwappingKnownPagesTest() : SwappingTest(true) {}
};

TEST_F(SwappingKnownPagesTest, WhatIsKnownIsNotCopiedBack) {
  const std::vector<PageCopy> out = plan_.swap_out;
  ASSERT_THAT(out, SizeIs(2));
  swapping_->Commit(plan_, Answer(plan_, 7));
  swapping_->End(1, FinishReason::kAbort);
  const StepPlan back = swapping_->Plan();
  ASSERT_THAT(back.slices, SizeIs(1));
  EXPECT_EQ(back.slices[0].pages[0], out[0].from);  // still there
  ASSERT_THAT(back.swap_in, SizeIs(1));
  EXPECT_EQ(back.swap_in[0].from, out[1].to);
  EXPECT_EQ(back.swap_in[0].to, back.slices[0].pages[1]);
}

// Of two sequences with prompts of six tokens, where a copied page takes as long as a computed
// token and a half: the pages that the first preemption, of the second one, swaps out.
size_t PagesSwappedBeside(const std::vector<TokenId>& first, const std::vector<TokenId>& second,
                          int num_pages) {
  const auto strategy = MakeAutoregressive();
  SchedulerConfig config = SmallConfig();
  config.num_pages = num_pages;
  config.num_host_pages = 3;
  config.swap_seconds_per_page = 1.5e-4;
  Scheduler scheduler(config, *strategy);
  const auto step = [&] {
    const StepPlan plan = scheduler.Plan();
    scheduler.Commit(plan, Answer(plan, 7));
  };
  scheduler.Add(1, {.prompt = first, .sampling = {.max_tokens = 30}}, 0);
  step();
  scheduler.Add(2, {.prompt = second, .sampling = {.max_tokens = 30}}, 0);
  while (scheduler.Stats().preemptions == 0) step();
  return scheduler.Stats().pages_swapped_out;
}

TEST(Swapping, PagesThatOthersHoldAreNoReasonForIt) {
  EXPECT_EQ(PagesSwappedBeside({1, 2, 3, 4, 5, 6}, {9, 2, 3, 4, 5, 6}, 5), 2u);
  EXPECT_EQ(PagesSwappedBeside({1, 2, 3, 4, 5, 6}, {1, 2, 3, 4, 9, 9}, 4), 0u);
}

class PrefixCachingTest : public SchedulerTest {
 protected:
  // A text of different tokens; `first` tells texts apart.
  static Request Text(TokenId first, int length, SamplingParams sampling = {.max_tokens = 1}) {
    Request request{.prompt = {first}, .sampling = std::move(sampling)};
    for (int i = 1; i < length; ++i) request.prompt.push_back(i);
    return request;
  }
  // Runs what is there to its end; returns the reports of tokens.
  std::vector<SequenceReport> Finish(TokenId token) {
    std::vector<SequenceReport> all;
    while (!scheduler_.idle()) {
      for (SequenceReport& report : Step(token)) all.push_back(std::move(report));
    }
    return all;
  }
};

TEST_F(PrefixCachingTest, ASequenceBeginsBehindWhatIsKnown) {
  scheduler_.Add(1, Text(1, 11), 0);
  EXPECT_EQ(Finish(7).at(0).output.cached_tokens, 0);
  EXPECT_EQ(scheduler_.Stats().pages_used, 0);
  scheduler_.Add(2, Text(1, 11), 0);
  const auto reports = Step(7);
  ASSERT_THAT(plan_.slices, SizeIs(1));
  EXPECT_THAT(plan_.slices[0].positions, ElementsAre(8, 9, 10));
  EXPECT_THAT(plan_.slices[0].pages, SizeIs(3));
  ASSERT_THAT(reports, SizeIs(1));
  EXPECT_EQ(reports[0].output.cached_tokens, 8);
  const EngineStats stats = scheduler_.Stats();
  EXPECT_EQ(stats.prompt_tokens, 22u);
  EXPECT_EQ(stats.prompt_tokens_cached, 8u);
  EXPECT_EQ(stats.prefix_queries, 22u);
  EXPECT_EQ(stats.prefix_hits, 8u);
}

TEST_F(PrefixCachingTest, TheLastTokenIsComputedAlways) {
  scheduler_.Add(1, Text(1, 8), 0);
  Finish(7);
  scheduler_.Add(2, Text(1, 8), 0);
  Step(7);
  EXPECT_THAT(plan_.slices[0].positions, ElementsAre(4, 5, 6, 7));
  EXPECT_THAT(plan_.slices[0].sample_rows, ElementsAre(3));
}

TEST_F(PrefixCachingTest, OutputsAreKnownToo) {
  scheduler_.Add(1, Text(1, 3, {.max_tokens = 6}), 0);
  Finish(7);  // 1 1 2 7 | 7 7 7 7 7 of which the last has no keys and values
  Request next{.prompt = {1, 1, 2, 7, 7, 7, 7, 7, 7, 3}, .sampling = {}};
  scheduler_.Add(2, next, 0);
  Step(7);
  EXPECT_THAT(plan_.slices[0].positions, ElementsAre(8, 9));
}

TEST_F(PrefixCachingTest, SaltsAndTextsAreKeptApart) {
  scheduler_.Add(1, Text(1, 7), 0);
  Finish(7);
  Request salted = Text(1, 7);
  salted.cache_salt = "mine";
  scheduler_.Add(2, salted, 0);
  EXPECT_EQ(Finish(7).at(0).output.cached_tokens, 0);
  scheduler_.Add(3, Text(2, 7), 0);
  EXPECT_EQ(Finish(7).at(0).output.cached_tokens, 0);
  scheduler_.Add(4, salted, 0);
  EXPECT_EQ(Finish(7).at(0).output.cached_tokens, 4);
}

TEST_F(PrefixCachingTest, RowsThatAreScoredAreNotSkipped) {
  scheduler_.Add(1, Text(1, 7), 0);
  Finish(7);
  scheduler_.Add(2, Text(1, 7, {.max_tokens = 1, .prompt_logprobs = 0}), 0);
  const auto reports = Step(7);
  EXPECT_THAT(plan_.slices[0].positions, SizeIs(7));
  EXPECT_THAT(reports.at(0).output.prompt, SizeIs(6));
  EXPECT_EQ(scheduler_.Stats().prefix_queries, 7u);
}

TEST_F(PrefixCachingTest, AFailedStepLeavesNothing) {
  scheduler_.Add(1, Text(1, 13), 0);
  Step(7);  // 8 positions
  plan_ = scheduler_.Plan();
  scheduler_.Commit(plan_, {.step = plan_.step, .slices = {}, .error = "boom"});
  scheduler_.Add(2, Text(1, 13), 0);
  Step(7);
  EXPECT_EQ(plan_.slices[0].positions.front(), 8);
}

TEST_F(PrefixCachingTest, SequencesOfARequestShareAsSoonAsTheirPagesAreFull) {
  scheduler_.Add(1, Text(1, 5, {.n = 2, .max_tokens = 9}), 0);
  Step(7);  // all of one and three tokens of the other
  ASSERT_THAT(plan_.slices, SizeIs(2));
  EXPECT_EQ(scheduler_.Stats().pages_used, 3);
  Step(7);
  EXPECT_EQ(scheduler_.running()[0]->pages[0], scheduler_.running()[1]->pages[0]);
  EXPECT_EQ(scheduler_.Stats().pages_used, 3);
}

TEST_F(PrefixCachingTest, DraftsThatWereDroppedAreNotKnown) {
  const auto strategy = MakeNgram(1, 3);
  Scheduler scheduler(SmallConfig(), *strategy);
  scheduler.Add(1, {.prompt = {5, 5}, .sampling = {.max_tokens = 10}}, 0);
  StepPlan plan = scheduler.Plan();
  scheduler.Commit(plan, Answer(plan, 5));
  plan = scheduler.Plan();
  ASSERT_THAT(plan.slices[0].positions, ElementsAre(2, 3, 4, 5));
  StepResult result = Answer(plan, 6);  // no draft holds: position 2 is kept alone
  scheduler.Commit(plan, result);
  EXPECT_EQ(scheduler.running()[0]->num_sealed, 0u);
  plan = scheduler.Plan();
  scheduler.Commit(plan, Answer(plan, 6));
  EXPECT_EQ(scheduler.running()[0]->num_sealed, 1u);  // 5 5 5 6
  scheduler.End(1, FinishReason::kAbort);
  scheduler.Add(2, {.prompt = {5, 5, 5, 5, 1}, .sampling = {}}, 0);
  scheduler.Add(3, {.prompt = {5, 5, 5, 6, 1}, .sampling = {}}, 0);
  plan = scheduler.Plan();
  EXPECT_THAT(plan.slices.at(0).positions, SizeIs(5));
  EXPECT_THAT(plan.slices.at(1).positions, ElementsAre(4));
}

TEST_F(PrefixCachingTest, APreemptedSequenceFindsItsPagesAgain) {
  SchedulerConfig config = SmallConfig();
  config.num_pages = 6;
  Scheduler scheduler(config, *strategy_);
  StepPlan plan;
  const auto step = [&] {
    plan = scheduler.Plan();
    return scheduler.Commit(plan, Answer(plan, 7));
  };
  scheduler.Add(1, Text(1, 8, {.max_tokens = 10}), 0);
  step();
  scheduler.Add(2, Text(2, 7, {.max_tokens = 10}), 0);
  while (scheduler.Stats().preemptions == 0) step();
  ASSERT_THAT(scheduler.waiting(), SizeIs(1));
  EXPECT_EQ(scheduler.waiting().First().num_sealed, 0u);
  scheduler.End(1, FinishReason::kAbort);
  step();
  ASSERT_THAT(plan.slices, SizeIs(1));
  EXPECT_EQ(plan.slices[0].sequence, 2u);
  EXPECT_EQ(plan.slices[0].positions.front(), 8);  // its prompt and what it has made since
  const EngineStats stats = scheduler.Stats();
  EXPECT_EQ(stats.prefix_queries, 15u);  // of first admissions only
  EXPECT_EQ(stats.prefix_hits, 0u);
}

TEST_F(PrefixCachingTest, KnownPagesMakeRoomForWhatIsNot) {
  scheduler_.Add(1, Text(1, 31), 0);
  Finish(7);
  scheduler_.Add(2, Text(2, 31), 0);
  scheduler_.Add(3, Text(3, 31), 0);
  EXPECT_THAT(Finish(7), SizeIs(2));
  EXPECT_EQ(scheduler_.Stats().preemptions, 0u);
  EXPECT_EQ(scheduler_.pages().num_free(), 16);
  EXPECT_GT(scheduler_.Stats().prefix_evictions, 0u);
}

TEST_F(PrefixCachingTest, PagesOfALostWorkerAreForgotten) {
  scheduler_.Add(1, Text(1, 7), 0);
  Finish(7);
  scheduler_.Add(2, Text(1, 7), 0);
  Step(7);
  scheduler_.Add(3, Text(1, 7), 0);
  plan_ = scheduler_.Plan();
  scheduler_.EndAll(FinishReason::kError, "lost");
  scheduler_.ForgetPages();
  scheduler_.Commit(plan_, Answer(plan_, 7));
  EXPECT_EQ(scheduler_.pages().num_cached(), 0);
  scheduler_.Add(4, Text(1, 7), 0);
  EXPECT_EQ(Finish(7).at(0).output.cached_tokens, 0);
}

TEST_F(PrefixCachingTest, MayBeLeftOut) {
  SchedulerConfig config = SmallConfig();
  config.enable_prefix_caching = false;
  Scheduler scheduler(config, *strategy_);
  for (RequestId id = 1; id <= 2; ++id) {
    scheduler.Add(id, Text(1, 7), 0);
    const StepPlan plan = scheduler.Plan();
    EXPECT_THAT(plan.slices.at(0).positions, SizeIs(7));
    scheduler.Commit(plan, Answer(plan, 7));
  }
  EXPECT_EQ(scheduler.pages().num_cached(), 0);
  EXPECT_EQ(scheduler.Stats().prefix_queries, 0u);
}

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
class LayeredPrefillTest : public testing::Test {
 protected:
  static SchedulerConfig Config() {
    SchedulerConfig config = SmallConfig();
    config.prefill_layer_groups = 2;
    return config;
  }
  std::vector<SequenceReport> Step() {
    plan_ = scheduler_.Plan();
    return scheduler_.Commit(plan_, Answer(plan_, 7));
  }

  static constexpr LayerGroup kFirst{.nth = 0, .of = 2};
  static constexpr LayerGroup kLast{.nth = 1, .of = 2};
  std::unique_ptr<DecodeStrategy> strategy_ = MakeAutoregressive();
  Scheduler scheduler_{Config(), *strategy_};
  StepPlan plan_;
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
