#include "moe/token_dispatcher.h"

#include <gtest/gtest.h>

#include <random>
#include <thread>
#include <vector>

#include "base/machine.h"
#include "dist/process_group.h"

namespace sluice {
namespace {

constexpr int kExperts = 8;
constexpr int kTopK = 3;
constexpr int kHidden = 24;

// One rank's tokens and where they are routed.
struct Tokens {
  explicit Tokens(int count, uint32_t seed)
      : x(DType::kF32, {count, kHidden}),
        ids(DType::kI32, {count, kTopK}),
        weights(DType::kF32, {count, kTopK}) {
    std::mt19937 random(seed);
    for (int i = 0; i < count * kHidden; ++i) x.data<float>()[i] = Value(random);
    for (int t = 0; t < count; ++t) {
      std::vector<int32_t> experts = {0, 1, 2, 3, 4, 5, 6, 7};
      std::shuffle(experts.begin(), experts.end(), random);
      for (int j = 0; j < kTopK; ++j) {
        ids.data<int32_t>()[t * kTopK + j] = experts[j];
        weights.data<float>()[t * kTopK + j] = Value(random);
      }
    }
  }
  static float Value(std::mt19937& random) {
    return std::uniform_real_distribution<float>(-1, 1)(random);
  }
  Tensor x, ids, weights;
};

// Expert e maps x to x * (e + 1) + e, element by element.
void RunExperts(const ExpertRows& rows, int first_expert) {
  const int32_t* offsets = rows.offsets.data<int32_t>();
  for (int e = 0; e + 1 < rows.offsets.dim(0); ++e) {
    const auto id = static_cast<float>(first_expert + e);
    for (int32_t r = offsets[e]; r < offsets[e + 1]; ++r) {
      const int32_t source = rows.gather.empty() ? r : rows.gather.data<int32_t>()[r];
      for (int h = 0; h < kHidden; ++h) {
        rows.y.data<float>()[r * kHidden + h] =
            rows.x.data<float>()[source * kHidden + h] * (id + 1) + id;
      }
    }
  }
}

std::vector<float> Forward(TokenDispatcher& dispatcher, const Tokens& tokens, int first_expert) {
  ThreadPool pool(1);
  Arena arena;
  ops::OpContext ctx{.pool = pool, .arena = arena, .tier = DetectCpuTier()};
  Tensor out(DType::kF32, tokens.x.shape());
  std::fill_n(out.data<float>(), out.view().NumElements(), 0.5f);
  RunExperts(dispatcher.Dispatch(tokens.x, tokens.ids, ctx), first_expert);
  dispatcher.Combine(tokens.weights, out, ctx);
  return {out.data<float>(), out.data<float>() + out.view().NumElements()};
}

TEST(TokenDispatcher, LocalSumsWeightedExperts) {
  const Tokens tokens(5, 1);
  const std::vector<float> out = Forward(*MakeLocalDispatcher(kExperts), tokens, 0);
  for (int t = 0; t < 5; ++t) {
    for (int h = 0; h < kHidden; ++h) {
      double expected = 0.5;
      for (int j = 0; j < kTopK; ++j) {
        const int e = tokens.ids.data<int32_t>()[t * kTopK + j];
        expected += tokens.weights.data<float>()[t * kTopK + j] *
                    (tokens.x.data<float>()[t * kHidden + h] * (e + 1.0) + e);
      }
      EXPECT_NEAR(out[t * kHidden + h], expected, 1e-5);
    }
  }
}

// Ranks with different numbers of tokens, one with none: each gets the bits of the local
// dispatcher.
TEST(TokenDispatcher, AllToAllGivesTheLocalBits) {
  for (const std::vector<int>& counts : {std::vector{7, 3}, {0, 4}, {5, 1, 0, 9}}) {
    const int size = static_cast<int>(counts.size());
    auto groups = MakeInProcessGroup(size);
    std::vector<std::vector<float>> results(size);
    std::vector<std::thread> ranks;
    for (int r = 0; r < size; ++r) {
      ranks.emplace_back([&, r] {
        const auto dispatcher = MakeAllToAllDispatcher(kExperts, *groups[r]);
        const Tokens tokens(counts[r], 10 + r);
        for (int layer = 0; layer < 3; ++layer) {
          results[r] = Forward(*dispatcher, tokens, r * kExperts / size);
        }
      });
    }
    for (std::thread& rank : ranks) rank.join();
    for (int r = 0; r < size; ++r) {
      EXPECT_EQ(results[r], Forward(*MakeLocalDispatcher(kExperts), Tokens(counts[r], 10 + r), 0));
    }
  }
}

}  // namespace
}  // namespace sluice
