#include "ops/norm/rms_norm.h"

#include <cmath>

#include "ops/common/test_support.h"

namespace sluice::ops {
namespace {

constexpr float kEps = 1e-6f;

class RmsNormTest : public OpTest {};

TEST_P(RmsNormTest, MatchesDoublePrecision) {
  std::mt19937 random(1);
  for (const int64_t rows : {0, 1, 2, 7, 8, 64, 1000, 8192}) {
    for (const int64_t width : {1, 15, 64, 130, 2048}) {
      if (rows * width > 300'000) continue;
      SCOPED_TRACE(::testing::Message() << rows << " x " << width);
      const Tensor x = RandomTensor({rows, width}, random, 3.0f);
      const Tensor weight = RandomTensor({width}, random);
      Guarded out(DType::kF32, {rows, width});
      RmsNorm({.eps = kEps}, x, weight, out, context());
      std::vector<double> want;
      for (int64_t r = 0; r < rows; ++r) {
        const float* row = x.data<float>() + r * width;
        double squares = 0;
        for (int64_t i = 0; i < width; ++i) squares += static_cast<double>(row[i]) * row[i];
        const double root = std::sqrt(squares / static_cast<double>(width) + kEps);
        for (int64_t i = 0; i < width; ++i) want.push_back(row[i] / root * weight.data<float>()[i]);
      }
      ExpectRelative(out, want, 1e-6);
    }
  }
}

TEST_P(RmsNormTest, NormsHeadsInPlaceWithinWiderRows) {
  std::mt19937 random(2);
  const Tensor weight = RandomTensor({24}, random);
  const Tensor rows = RandomTensor({3, 100}, random);
  Guarded out(DType::kF32, {3, 100});
  std::copy_n(rows.data<float>(), 300, out.view().data<float>());
  // Heads 1 and 2 of four heads of 24, in rows of 100.
  const int64_t strides[] = {100, 24, 1};
  const TensorView heads(out.view().data<float>() + 24, DType::kF32, {3, 2, 24}, strides);
  RmsNorm({.eps = kEps}, heads, weight, heads, context());
  for (int64_t t = 0; t < 3; ++t) {
    for (int64_t i = 0; i < 100; ++i) {
      if (i >= 24 && i < 72) continue;
      EXPECT_EQ(out.data<float>()[t * 100 + i], rows.data<float>()[t * 100 + i]);
    }
    for (int64_t h = 1; h < 3; ++h) {
      Guarded alone(DType::kF32, {1, 24});
      const ConstTensorView head(rows.data<float>() + t * 100 + h * 24, DType::kF32, {1, 24});
      RmsNorm({.eps = kEps}, head, weight, alone, context());
      ExpectSameBits(alone.data<float>(), out.data<float>() + t * 100 + h * 24, 24);
    }
  }
}

SLUICE_INSTANTIATE_OP_TEST(RmsNormTest);

}  // namespace
}  // namespace sluice::ops
