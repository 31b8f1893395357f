// What a scheduler does with pages that run out, and with those that were filled before.

#include "sched/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <utility>
#include <vector>

#include "sched/testing.h"

namespace sluice {
namespace {

using testing::Answer;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::MakeRequest;
using testing::SchedulerTest;
using ::testing::SizeIs;
using testing::SmallConfig;

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

}  // namespace
}  // namespace sluice
