#include "ops/rope/rope.h"

#include <cmath>

#include "ops/common/test_support.h"

namespace sluice::ops {
namespace {

class RopeTest : public OpTest {};

Tensor Positions(std::initializer_list<int32_t> values) {
  Tensor positions(DType::kI32, {static_cast<int64_t>(values.size())});
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

TEST_P(RopeTest, RotatesHalvesOfTheFirstDimensions) {
  std::mt19937 random(1);
  struct Form {
    int64_t tokens, heads, head_dim, rotary_dim;
  };
  for (const Form& form : {Form{0, 4, 64, 64}, Form{1, 4, 64, 64}, Form{7, 3, 24, 24},
                           Form{64, 2, 128, 32}, Form{1000, 1, 16, 10}}) {
    const int64_t half = form.rotary_dim / 2;
    const Tensor x = RandomTensor({form.tokens, form.heads, form.head_dim}, random);
    const Tensor cos_sin = RandomTensor({form.tokens, 2, half}, random);
    Guarded out(DType::kF32, x.shape());
    std::copy_n(x.data<float>(), x.shape().NumElements(), out.view().data<float>());
    Rope(cos_sin, out, context());
    std::vector<double> want = ToDoubles(x);
    for (int64_t t = 0; t < form.tokens; ++t) {
      for (int64_t h = 0; h < form.heads; ++h) {
        double* head = want.data() + (t * form.heads + h) * form.head_dim;
        for (int64_t i = 0; i < half; ++i) {
          const double cosine = cos_sin.data<float>()[t * 2 * half + i];
          const double sine = cos_sin.data<float>()[t * 2 * half + half + i];
          const double a = head[i];
          const double b = head[i + half];
          head[i] = a * cosine - b * sine;
          head[i + half] = b * cosine + a * sine;
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
