#include "sched/prompt_gathering.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

// 16 places, two steps a pass, each 0.5 s longer than a step of decoding alone: a pass costs two
// such steps, as 32 places that are free for one.
PromptGathering Timed() {
  PromptGathering gathering(/*places=*/16, /*steps_a_pass=*/2);
  gathering.Observe(/*has_prompts=*/false, 0.5);
  gathering.Observe(/*has_prompts=*/true, 1.0);
  return gathering;
}

TEST(PromptGathering, WaitsForAnEndThatCostsLessThanAPass) {
  EXPECT_TRUE(Timed().PutOff(/*free_places=*/4, /*steps_to_end=*/8));
  EXPECT_FALSE(Timed().PutOff(5, 8)) << "40 free for a step";
  EXPECT_TRUE(Timed().PutOff(15, 2));
  EXPECT_FALSE(Timed().PutOff(15, 3));
}

TEST(PromptGathering, CountsThePlacesThatWereFree) {
  PromptGathering gathering = Timed();
  EXPECT_TRUE(gathering.PutOff(8, 1));
  EXPECT_TRUE(gathering.PutOff(8, 1));
  EXPECT_TRUE(gathering.PutOff(12, 1));
  EXPECT_FALSE(gathering.PutOff(12, 1)) << "28 were free, and 12 more";
  gathering.Reset();
  EXPECT_TRUE(gathering.PutOff(12, 1));
}

TEST(PromptGathering, NoPromptWaitsForLong) {
  EXPECT_FALSE(Timed().PutOff(1, 9));
  PromptGathering gathering = Timed();
  for (int step = 0; step < 8; ++step) EXPECT_TRUE(gathering.PutOff(1, 1)) << step;
  EXPECT_FALSE(gathering.PutOff(1, 1));
}

TEST(PromptGathering, WaitsForNothingWherePromptsCostNothing) {
  PromptGathering in_one_step(16, 1);
  in_one_step.Observe(false, 0.5);
  in_one_step.Observe(true, 5.0);
  EXPECT_FALSE(in_one_step.PutOff(1, 1));

  // As where decoding needs every expert by itself.
  PromptGathering no_dearer(16, 2);
  no_dearer.Observe(false, 1.0);
  no_dearer.Observe(true, 1.0);
  EXPECT_FALSE(no_dearer.PutOff(1, 1));
  no_dearer.Observe(true, 0.9);
  EXPECT_FALSE(no_dearer.PutOff(1, 1));
}

TEST(PromptGathering, LearnsWhatItDoesNotKnow) {
  PromptGathering gathering(16, 2);
  EXPECT_FALSE(gathering.PutOff(1, 1)) << "nothing says that prompts cost anything";
  gathering.Observe(true, 1.0);
  EXPECT_TRUE(gathering.PutOff(1, 100)) << "one step without prompts, to see what it takes";
  gathering.Observe(false, 1.0);
  EXPECT_FALSE(gathering.PutOff(1, 1));
  // Both follow what steps take.
  for (int step = 0; step < 30; ++step) gathering.Observe(false, 0.5);
  EXPECT_TRUE(gathering.PutOff(4, 7));
  for (int step = 0; step < 30; ++step) gathering.Observe(true, 0.5);
  EXPECT_FALSE(gathering.PutOff(4, 7));
}

TEST(PromptGathering, LearnsAgainWhatItHasNotSeenForLong) {
  PromptGathering gathering(16, 2);
  gathering.Observe(false, 2.0);  // as the first step after a start may be
  for (int step = 0; step < 31; ++step) gathering.Observe(true, 1.0);
  EXPECT_FALSE(gathering.PutOff(4, 1));
  gathering.Observe(true, 1.0);
  EXPECT_TRUE(gathering.PutOff(4, 1)) << "one step without prompts";
  gathering.Observe(false, 0.5);
  EXPECT_TRUE(gathering.PutOff(4, 1)) << "a pass is dear";
  EXPECT_FALSE(gathering.PutOff(4, 100)) << "and known to be";
}

}  // namespace
}  // namespace sluice
