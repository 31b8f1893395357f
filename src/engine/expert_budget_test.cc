#include "engine/expert_budget.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "arch/testing.h"
#include "base/error.h"
#include "model/model_weights.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;

constexpr int kExperts = 2 * 8;  // of the tiny model

class ExpertBudgetTest : public ::testing::Test {
 protected:
  uint64_t Slot() const { return ExpertLayoutOf(spec_, options_.dtype).SlotBytes(); }
  uint64_t NeededWith(int slots) const {
    RunnerOptions with = options_;
    with.expert_slots = slots;
    return EstimateMemory(spec_, with).total();
  }

  ModelSpec spec_ = TinyMoeSpec();
  RunnerOptions options_{.num_pages = 8, .max_model_len = 64};
};

TEST_F(ExpertBudgetTest, SlotsAreWhatTheRestLeaves) {
  for (const int slots : {2, 3, 7, kExperts - 1}) {
    EXPECT_EQ(SlotsWithin(spec_, options_, NeededWith(slots)), slots);
    EXPECT_EQ(SlotsWithin(spec_, options_, NeededWith(slots) + Slot() - 1), slots);
  }
  EXPECT_EQ(SlotsWithin(spec_, options_, NeededWith(kExperts) + 100 * Slot()), kExperts);
}

// What a step needs to bring experts, it does not need where all have a slot.
TEST_F(ExpertBudgetTest, EveryExpertHasASlotWhereTheyFitWithoutMore) {
  options_.offload.prefill_layer_groups = 2;
  ASSERT_LT(NeededWith(0), NeededWith(kExperts));
  EXPECT_EQ(SlotsWithin(spec_, options_, NeededWith(0)), kExperts);
  EXPECT_LT(SlotsWithin(spec_, options_, NeededWith(0) - 1), kExperts);
}

TEST_F(ExpertBudgetTest, TheSmallestBudgetWorksAndNotAByteLess) {
  const uint64_t least = SmallestBudget(spec_, options_);
  EXPECT_EQ(least, NeededWith(kLeastExpertSlots));
  EXPECT_EQ(SlotsWithin(spec_, options_, least), kLeastExpertSlots);
  try {
    SlotsWithin(spec_, options_, least - 1);
    FAIL() << "fits";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kResourceExhausted);
    EXPECT_THAT(error.what(), HasSubstr("--vram-budget " + std::to_string(least)));
  }
}

TEST_F(ExpertBudgetTest, TheHostsSlotsAreNoPartOfTheBudget) {
  const uint64_t least = SmallestBudget(spec_, options_);
  options_.offload.host_slots = kExperts;
  EXPECT_EQ(SmallestBudget(spec_, options_), least);
  options_.expert_slots = kLeastExpertSlots;
  const MemoryNeeds needs = EstimateMemory(spec_, options_);
  EXPECT_EQ(needs.host_expert_bytes, kExperts * Slot());
  EXPECT_EQ(needs.total(), least + needs.host_expert_bytes);
}

TEST_F(ExpertBudgetTest, PagesGetNothingOfTheLeastSlots) {
  const uint64_t with_pages = SmallestBudget(spec_, options_);
  const uint64_t pages = EstimateMemory(spec_, options_).kv_bytes;
  EXPECT_EQ(LeftForPages(spec_, options_, with_pages), pages);
  EXPECT_EQ(LeftForPages(spec_, options_, with_pages + 5), pages + 5);
  EXPECT_EQ(LeftForPages(spec_, options_, 1), 0u);
}

TEST_F(ExpertBudgetTest, HostSlotsAreWholeExpertsAndTwoAtLeast) {
  EXPECT_EQ(HostSlotsWithin(spec_, options_, 5 * Slot() + 1), 5);
  EXPECT_EQ(HostSlotsWithin(spec_, options_, 1000 * Slot()), kExperts);
  EXPECT_EQ(HostSlotsWithin(spec_, options_, {}), kExperts);  // of what the host has to spare
  EXPECT_EQ(HostSlotsWithin(spec_, options_, 2 * Slot()), 2);
  try {
    HostSlotsWithin(spec_, options_, 2 * Slot() - 1);
    FAIL() << "fits";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("--ram-budget " + std::to_string(2 * Slot())));
  }
}

}  // namespace
}  // namespace sluice
