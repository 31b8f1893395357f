#include "sampling/random.h"

#include <gtest/gtest.h>

#include <set>

namespace sluice {
namespace {

// Known answers published with the generator.
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(UniformAt, LiesInTheUnitIntervalWithTheRightMean) {
  double sum = 0;
  constexpr int kDraws = 20000;
  for (int i = 0; i < kDraws; ++i) {
    const double u = UniformAt(7, i, 0);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 0.01);
}

TEST(UniformAt, EveryArgumentCounts) {
  const std::set<double> values = {UniformAt(1, 1, 1),          UniformAt(2, 1, 1),
                                   UniformAt(1, 2, 1),          UniformAt(1, 1, 2),
                                   UniformAt(1ull << 40, 1, 1), UniformAt(1, 1ull << 40, 1)};
  EXPECT_EQ(values.size(), 6u);
  EXPECT_EQ(UniformAt(1, 1, 1), UniformAt(1, 1, 1));
}

TEST(MixSeed, StreamsDiffer) {
  std::set<uint64_t> seeds;
  for (uint64_t seed = 0; seed < 30; ++seed) {
    for (uint64_t stream = 0; stream < 30; ++stream) seeds.insert(MixSeed(seed, stream));
  }
  EXPECT_EQ(seeds.size(), 900u);
}

}  // namespace
}  // namespace sluice
