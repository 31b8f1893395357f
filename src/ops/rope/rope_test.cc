#include "ops/rope/rope.h"

#include <algorithm>
#include <cmath>

#include "ops/common/test_support.h"
#include "quant/float_formats.h"

namespace sluice::ops {
namespace {

class RopeTest : public OpTest {};

Tensor Positions(std::initializer_list<int32_t> values) {
  Tensor positions = HostTensor(DType::kI32, {static_cast<int64_t>(values.size())});
  std::copy(values.begin(), values.end(), positions.data<int32_t>());
  return positions;
}

TEST_P(RopeTest, AnglesArePositionsTimesFrequencies) {
  const Tensor positions = Positions({0, 1, 17, 40'000});
  Guarded cos_sin(DType::kF32, {4, 2, 32});
  RopeAngles({.theta = 1e6, .rotary_dim = 64}, positions, cos_sin, context());
  cos_sin.ExpectGuardsIntact();
  for (int t = 0; t < 4; ++t) {
    const double position = positions.data<int32_t>()[t];
    for (int i = 0; i < 32; ++i) {
      const double angle = position / std::pow(1e6, 2.0 * i / 64.0);
      // The frequency and the angle are f32, so a far position turns a little off.
      const double slack = 1e-7 + 2e-7 * angle;
      EXPECT_NEAR(cos_sin.data<float>()[t * 64 + i], std::cos(angle), slack);
      EXPECT_NEAR(cos_sin.data<float>()[t * 64 + 32 + i], std::sin(angle), slack);
    }
  }
}

// Half of DeepSeek-V3's 64 rotary dimensions by hand: ln(4096 / (2 pi 32)) * 64 / (2 ln 10000) is
// 10.47 and with 1 for 32 turns 22.5, so dimensions up to 10 are kept and those from 23 on divided.
TEST(RopeFrequencies, YarnKeepsFastOnesAndDividesSlowOnes) {
  RopeDesc desc{.theta = 1e4, .rotary_dim = 64};
  const std::vector<float> plain = RopeFrequencies(desc);
  desc.scaling = RopeScaling::kYarn;
  desc.factor = 40.0;
  desc.original_positions = 4096;
  const std::vector<float> yarn = RopeFrequencies(desc);
  for (int i = 0; i < 32; ++i) {
    const double divided = std::clamp((i - 10) / 13.0, 0.0, 1.0);
    const double want = plain[i] * (1.0 - divided) + plain[i] / 40.0 * divided;
    EXPECT_NEAR(yarn[i], want, 1e-6 * want) << i;
  }
  desc.truncate = false;
  const std::vector<float> ramp = RopeFrequencies(desc);
  EXPECT_FLOAT_EQ(ramp[10], plain[10]);
  EXPECT_LT(ramp[22], yarn[22]);
  EXPECT_NEAR(ramp[23], plain[23] / 40.0, 1e-9);
}

TEST(RopeFrequencies, AreRoundedAtLast) {
  RopeDesc desc{.theta = 10000.0, .rotary_dim = 64, .scaling = RopeScaling::kLinear, .factor = 3.0};
  const std::vector<float> exact = RopeFrequencies(desc);
  desc.frequency_dtype = DType::kBF16;
  const std::vector<float> bf16 = RopeFrequencies(desc);
  desc.frequency_dtype = DType::kF16;
  const std::vector<float> f16 = RopeFrequencies(desc);
  for (size_t i = 0; i < exact.size(); ++i) {
    EXPECT_EQ(bf16[i], ToFloat(ToBf16(exact[i])));
    EXPECT_EQ(f16[i], ToFloat(ToF16(exact[i])));
  }
  EXPECT_NE(bf16, exact);
}

TEST(RopeFrequencies, StretchesLongWavelengths) {
  RopeDesc desc{.theta = 5e5, .rotary_dim = 128};
  const std::vector<float> plain = RopeFrequencies(desc);
  desc.scaling = RopeScaling::kWavelength;
  desc.factor = 8.0;
  desc.original_positions = 8192;
  const std::vector<float> scaled = RopeFrequencies(desc);
  int between = 0;
  for (int i = 0; i < 64; ++i) {
    const double wavelength = 2 * M_PI / plain[i];
    if (wavelength < 2048) {
      EXPECT_EQ(scaled[i], plain[i]) << i;
    } else if (wavelength > 8192) {
      EXPECT_FLOAT_EQ(scaled[i], plain[i] / 8) << i;
    } else {
      const double kept = (8192 / wavelength - 1) / 3;
      EXPECT_NEAR(scaled[i], plain[i] * (kept + (1 - kept) / 8), 1e-6 * plain[i]) << i;
      ++between;
    }
  }
  EXPECT_GT(between, 3);
}

TEST_P(RopeTest, ScalesFrequenciesAndTheRotation) {
  const RopeDesc plain{.theta = 1e4, .rotary_dim = 16};
  RopeDesc linear = plain;
  linear.scaling = RopeScaling::kLinear;
  linear.factor = 4.0;
  linear.attention_factor = 1.5;
  Guarded want(DType::kF32, {2, 2, 8});
  Guarded got(DType::kF32, {2, 2, 8});
  RopeAngles(plain, Positions({1, 5}), want, context());
  RopeAngles(linear, Positions({4, 20}), got, context());
  for (int i = 0; i < 32; ++i) EXPECT_NEAR(got.data<float>()[i], 1.5 * want.data<float>()[i], 2e-6);
}

TEST_P(RopeTest, RotatesPairsOfTheFirstDimensions) {
  std::mt19937 random(1);
  struct Form {
    int64_t tokens, heads, head_dim, rotary_dim;
  };
  constexpr Form kForms[] = {
      {0, 4, 64, 64}, {1, 4, 64, 64}, {7, 3, 24, 24}, {64, 2, 128, 32}, {1000, 1, 16, 10}};
  for (int run = 0; run < 10; ++run) {
    const Form& form = kForms[run / 2];
    const bool adjacent = run % 2 == 1;
    const int64_t half = form.rotary_dim / 2;
    const Tensor x = RandomTensor({form.tokens, form.heads, form.head_dim}, random);
    const Tensor cos_sin = RandomTensor({form.tokens, 2, half}, random);
    Guarded out(DType::kF32, x.shape());
    std::copy_n(x.data<float>(), x.shape().NumElements(), out.view().data<float>());
    Rope(adjacent ? RopePairing::kAdjacent : RopePairing::kHalves, cos_sin, out, context());
    out.ExpectGuardsIntact();
    std::vector<double> want = ToDoubles(x);
    for (int64_t t = 0; t < form.tokens; ++t) {
      for (int64_t h = 0; h < form.heads; ++h) {
        double* head = want.data() + (t * form.heads + h) * form.head_dim;
        for (int64_t i = 0; i < half; ++i) {
          const double cosine = cos_sin.data<float>()[t * 2 * half + i];
          const double sine = cos_sin.data<float>()[t * 2 * half + half + i];
          double& first = head[adjacent ? 2 * i : i];
          double& second = head[adjacent ? 2 * i + 1 : i + half];
          const double a = first;
          const double b = second;
          first = a * cosine - b * sine;
          second = b * cosine + a * sine;
        }
      }
    }
    const std::vector<double> scale(want.size(), 1.0);
    ExpectClose(out, want, scale, 3e-7);
  }
}

SLUICE_INSTANTIATE_OP_TEST(RopeTest);

}  // namespace
}  // namespace sluice::ops
