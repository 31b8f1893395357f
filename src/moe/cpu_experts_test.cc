#include "moe/cpu_experts.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "base/machine.h"
#include "quant/float_formats.h"

namespace sluice {
namespace {

constexpr int kHidden = 48;
constexpr int kFfn = 40;
constexpr int kSlots = 5;

// A slab of random experts, and their maths in double precision.
class Experts {
 public:
  Experts() : slab_(kSlots * layout_.SlotBytes()) {
    std::mt19937 random(3);
    std::normal_distribution<float> normal(0.0f, 0.2f);
    for (int slot = 0; slot < kSlots; ++slot) {
      for (int64_t i = 0; i < 2 * kFfn * kHidden; ++i) GateUp(slot)[i] = ToBf16(normal(random));
      for (int64_t i = 0; i < kFfn * kHidden; ++i) Down(slot)[i] = ToBf16(normal(random));
    }
  }

  const ExpertLayout& layout() const { return layout_; }
  const std::byte* slab() const { return slab_.data(); }

  std::vector<double> Compute(int slot, const float* x) const {
    std::vector<double> inner(kFfn);
    for (int f = 0; f < kFfn; ++f) {
      double gate = 0.0, up = 0.0;
      for (int h = 0; h < kHidden; ++h) {
        gate += double{ToFloat(GateUp(slot)[f * kHidden + h])} * x[h];
        up += double{ToFloat(GateUp(slot)[(kFfn + f) * kHidden + h])} * x[h];
      }
      inner[f] = gate / (1.0 + std::exp(-gate)) * up;
    }
    std::vector<double> y(kHidden);
    for (int h = 0; h < kHidden; ++h) {
      for (int f = 0; f < kFfn; ++f) y[h] += ToFloat(Down(slot)[h * kFfn + f]) * inner[f];
    }
    return y;
  }

 private:
  Bf16* GateUp(int slot) const {
    return reinterpret_cast<Bf16*>(slab_.data() + slot * layout_.SlotBytes());
  }
  Bf16* Down(int slot) const {
    return reinterpret_cast<Bf16*>(slab_.data() + slot * layout_.SlotBytes() +
                                   layout_.DownOffset());
  }

  ExpertLayout layout_{.hidden = kHidden, .ffn = kFfn, .dtype = DType::kBF16};
  Buffer slab_;
};

class CpuExpertsTest : public ::testing::TestWithParam<DType> {
 protected:
  Experts experts_;
  ThreadPool pool_{2};
  CpuExperts cpu_{experts_.layout(), experts_.slab(), kSlots, pool_, DetectCpuTier()};
};

// Four experts with 2, 1, 0 and 3 rows; the second is not computed here.
TEST_P(CpuExpertsTest, ComputesTheRowsOfItsExpertsAlone) {
  constexpr int kTokens = 3;
  const std::vector<int32_t> gather = {0, 2, 1, 2, 0, 1};
  const std::vector<int32_t> offsets = {0, 2, 3, 3, 6};
  const std::vector<int32_t> slots = {4, -1, 1, 0};
  const Tensor x(GetParam(), {kTokens, kHidden});
  std::vector<float> values(kTokens * kHidden);
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  for (size_t i = 0; i < values.size(); ++i) {
    const Bf16 narrow = ToBf16(normal(random));
    values[i] = ToFloat(narrow);
    if (GetParam() == DType::kBF16) {
      x.data<Bf16>()[i] = narrow;
    } else {
      x.data<float>()[i] = values[i];
    }
  }
  const Tensor y(DType::kF32, {6, kHidden});
  std::fill_n(y.data<float>(), y.view().NumElements(), -7.0f);

  cpu_.Run({.x = x.view(), .gather = gather, .offsets = offsets}, slots, y);

  for (int e = 0; e < 4; ++e) {
    for (int row = offsets[e]; row < offsets[e + 1]; ++row) {
      const float* got = y.data<float>() + row * kHidden;
      if (slots[e] < 0) {
        for (int h = 0; h < kHidden; ++h) EXPECT_EQ(got[h], -7.0f);
        continue;
      }
      const std::vector<double> want =
          experts_.Compute(slots[e], values.data() + gather[row] * kHidden);
      for (int h = 0; h < kHidden; ++h) EXPECT_NEAR(got[h], want[h], 1e-4) << row << " " << h;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Inputs, CpuExpertsTest, ::testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& test) { return std::string(DTypeName(test.param)); });

TEST_P(CpuExpertsTest, KnowsWhatExpertsCost) {
  const CoExecutionCosts costs = cpu_.Costs(0.25);
  EXPECT_EQ(costs.link_s, 0.25);
  EXPECT_GT(costs.host_s, 0.0);
  EXPECT_GE(costs.host_row_s, 0.0);
  EXPECT_GT(costs.host_start_s, 0.0);
}

}  // namespace
}  // namespace sluice
