#include "trace/expert_load.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vector>

#include "device/buffer.h"

namespace sluice {
namespace {

void Observe(ExpertLoad& load, uint64_t step, int layer, int top_k, std::vector<int32_t> ids) {
  const auto tokens = static_cast<int64_t>(ids.size()) / top_k;
  const std::vector<RoutingKey> keys(static_cast<size_t>(tokens));
  const Tensor weights(DType::kF32, {tokens, top_k});
  load.Observe(step, layer, keys, weights, TensorView(ids.data(), DType::kI32, {tokens, top_k}));
}

TEST(ExpertLoad, CountsTokensAndTheStepsThatHadThem) {
  ExpertLoad load(3, 4);
  Observe(load, 7, 0, 2, {0, 1, 1, 2});
  Observe(load, 7, 2, 2, {3, 0, 3, 1});
  Observe(load, 8, 0, 2, {1, 2});
  EXPECT_EQ(load.steps(), 2u);
  const std::vector<uint64_t> tokens{1, 3, 2, 0};
  const std::vector<uint64_t> uses{1, 2, 2, 0};
  for (int expert = 0; expert < 4; ++expert) {
    EXPECT_EQ(load.tokens(0, expert), tokens[static_cast<size_t>(expert)]);
    EXPECT_EQ(load.uses(0, expert), uses[static_cast<size_t>(expert)]);
    EXPECT_EQ(load.tokens(1, expert), 0u);
  }
  EXPECT_EQ(load.tokens(2, 3), 2u);
  EXPECT_EQ(load.uses(2, 3), 1u);
}

TEST(ExpertLoad, AnotherProcessCountsOn) {
  ExpertLoad load(1, 2);
  Observe(load, 1, 0, 1, {0, 1, 1});
  const pid_t child = fork();
  if (child == 0) {
    ExpertLoad same(1, 2, dup(load.descriptor()));
    Observe(same, 1, 0, 1, {1});
    _exit(0);
  }
  int status = 1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(load.tokens(0, 0), 1u);
  EXPECT_EQ(load.tokens(0, 1), 3u);
  EXPECT_EQ(load.uses(0, 1), 2u);
  EXPECT_EQ(load.steps(), 2u);  // a worker that was started again counts its steps from the first
}

}  // namespace
}  // namespace sluice
