#include "sched/swap_policy.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

TEST(SwapPolicy, WeighsTwoCopiesAgainstComputingAgain) {
  SwapPolicy policy(/*seconds_per_page=*/8e-4);  // a page of 16 tokens: 1.6 ms both ways
  EXPECT_FALSE(policy.SwapIsCheaper(10, 10, 160)) << "16 ms both ways, 16 ms to compute";
  EXPECT_TRUE(policy.SwapIsCheaper(9, 9, 160));
  EXPECT_FALSE(policy.SwapIsCheaper(1, 1, 1)) << "a page that is hardly begun";
  EXPECT_TRUE(policy.SwapIsCheaper(15, 4, 160)) << "others hold the first eleven";
  EXPECT_FALSE(policy.SwapIsCheaper(16, 4, 64)) << "16 ms to copy, 6.4 ms to compute the rest";
}

TEST(SwapPolicy, LearnsFromStepsOfManyRows) {
  SwapPolicy policy(8e-4);
  for (int i = 0; i < 100; ++i) policy.Observe(512, 0.512);
  EXPECT_NEAR(policy.seconds_per_token(), 1e-3, 1e-5);
  EXPECT_TRUE(policy.SwapIsCheaper(10, 10, 160));
  for (int i = 0; i < 100; ++i) policy.Observe(4, 1.0);  // decodes: nothing about prefills
  EXPECT_NEAR(policy.seconds_per_token(), 1e-3, 1e-5);
  for (int i = 0; i < 100; ++i) policy.Observe(512, 0.00512);
  EXPECT_FALSE(policy.SwapIsCheaper(10, 10, 160));
}

}  // namespace
}  // namespace sluice
