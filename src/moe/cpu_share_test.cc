#include "moe/cpu_share.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "base/machine.h"
#include "offload/testing.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using testing::ValueOf;

constexpr int kLayer = 0;
constexpr int kExperts = 6;
constexpr int kHidden = 4;
constexpr int kFfn = 3;
constexpr int kTokens = 2;
constexpr float kUntouched = -7.0f;

// Two tokens choose experts 1 and 3, and 3 and 4: four rows, sorted by expert.
const std::vector<int32_t> kIds = {1, 3, 3, 4};
const std::vector<int32_t> kCounts = {0, 1, 0, 2, 1, 0};
const std::vector<int32_t> kRowExperts = {1, 3, 3, 4};
const std::vector<int32_t> kRowTokens = {0, 0, 1, 1};

class CpuShareTest : public ::testing::Test {
 protected:
  // Experts 0 and 1 are in slots, and a copy is known to take some ten milliseconds.
  explicit CpuShareTest(int num_slots = 2)
      : store_(layout_,
               {.experts = experts_, .num_slots = num_slots, .link = link_.get(), .host = &host_},
               source_, pool_) {
    testing::RunLayer(store_, kLayer, {0, 1});
    for (int t = 0; t < kTokens; ++t) {
      std::fill_n(h_.view()[t].data<float>(), kHidden, 0.01f * static_cast<float>(t + 1));
    }
    std::fill_n(y_.data<float>(), y_.view().NumElements(), kUntouched);
  }

  std::unique_ptr<CpuShare::Layer> Begin() {
    return share_.Begin(
        {.layer = kLayer, .ids = kIds, .counts = kCounts, .away = away_, .transfers = 2},
        {.y = y_.view()}, ctx_);
  }

  // Of an expert whose weights all have one value, and a token whose states do.
  static float Expected(int expert, int token) {
    const double v = ValueOf(kLayer, expert);
    const double g = kHidden * v * 0.01 * (token + 1);
    return static_cast<float>(v * kFfn * g / (1.0 + std::exp(-g)) * g);
  }

  ExpertLayout layout_{.hidden = kHidden, .ffn = kFfn, .dtype = DType::kF32};
  ExpertSet experts_{{kLayer}, kExperts};
  testing::FakeSource source_;
  ThreadPool pool_{2};
  std::unique_ptr<ExpertLink> link_ = MakeThreadLink({.bytes_per_s = 1e4});
  HostExperts host_{layout_, experts_, {}, source_, pool_};
  ExpertStore store_;
  CpuShare share_{store_, pool_, {.tier = DetectCpuTier(), .top_k = 2}};
  Arena arena_;
  ops::OpContext ctx_{.pool = pool_, .arena = arena_};
  Tensor h_{DType::kF32, {kTokens, kHidden}};
  Tensor y_{DType::kF32, {4, kHidden}};
  std::vector<int32_t> away_ = {4, 3};  // the fewest tokens first
};

TEST_F(CpuShareTest, ComputesTheRowsOfItsExpertsAlone) {
  share_.Bring(h_.view(), ctx_);
  const std::unique_ptr<CpuShare::Layer> layer = Begin();
  ASSERT_NE(layer, nullptr);
  EXPECT_THAT(layer->experts(), ElementsAre(3, 4));
  layer->Finish();
  for (size_t row = 0; row < kRowExperts.size(); ++row) {
    const bool is_missing = kRowExperts[row] != 1;
    const float want = is_missing ? Expected(kRowExperts[row], kRowTokens[row]) : kUntouched;
    for (int i = 0; i < kHidden; ++i) {
      EXPECT_NEAR(y_.view()[row].data<float>()[i], want, 1e-5 * std::abs(want)) << row;
    }
  }
}

TEST_F(CpuShareTest, TakesNothingWhereNothingIsMissing) {
  share_.Bring(h_.view(), ctx_);
  away_.clear();
  EXPECT_EQ(Begin(), nullptr);
}

// Experts have so many rows then that the link is the quicker.
TEST_F(CpuShareTest, LeavesLargeStepsToTheLink) {
  share_.Bring(h_.view(), ctx_);
  EXPECT_NE(Begin(), nullptr);
  const Tensor many(DType::kF32, {4096, kHidden});
  share_.Bring(many.view(), ctx_);
  EXPECT_EQ(Begin(), nullptr);
}

class CpuShareWithFreeSlotsTest : public CpuShareTest {
 protected:
  CpuShareWithFreeSlotsTest() : CpuShareTest(3) {}
};

TEST_F(CpuShareWithFreeSlotsTest, LeavesThemToTheLink) {
  share_.Bring(h_.view(), ctx_);
  EXPECT_EQ(Begin(), nullptr);
}

}  // namespace
}  // namespace sluice
