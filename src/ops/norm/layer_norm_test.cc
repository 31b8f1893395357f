#include "ops/norm/layer_norm.h"

#include <cmath>

#include "ops/common/test_support.h"

namespace sluice::ops {
namespace {

constexpr float kEps = 1e-5f;

class LayerNormTest : public OpTest {};

TEST_P(LayerNormTest, MatchesDoublePrecision) {
  std::mt19937 random(1);
  for (const int64_t rows : {0, 1, 2, 7, 8, 64, 1000, 8192}) {
    for (const int64_t width : {1, 15, 64, 130, 6144}) {
      if (rows * width > 300'000) continue;
      SCOPED_TRACE(::testing::Message() << rows << " x " << width);
      const Tensor x = RandomTensor({rows, width}, random, 3.0f);
      const Tensor weight = RandomTensor({width}, random);
      Guarded out(DType::kF32, {rows, width});
      LayerNorm({.eps = kEps}, x, weight, out, context());
      std::vector<double> want;
      for (int64_t r = 0; r < rows; ++r) {
        const float* row = x.data<float>() + r * width;
        double mean = 0;
        double squares = 0;
        for (int64_t i = 0; i < width; ++i) mean += row[i] / static_cast<double>(width);
        for (int64_t i = 0; i < width; ++i) squares += (row[i] - mean) * (row[i] - mean);
        const double root = std::sqrt(squares / static_cast<double>(width) + kEps);
        for (int64_t i = 0; i < width; ++i) {
          want.push_back((row[i] - mean) / root * weight.data<float>()[i]);
        }
      }
      const std::vector<double> scale(want.size(), 3.0);
      ExpectClose(out, want, scale, 1e-6);
    }
  }
}

TEST_P(LayerNormTest, KeepsADeviationBesideALargeMean) {
  Guarded out(DType::kF32, {1, 64});
  const Tensor weight = HostTensor(DType::kF32, {64});
  const Tensor x = HostTensor(DType::kF32, {1, 64});
  for (int i = 0; i < 64; ++i) {
    weight.view().data<float>()[i] = 1.0f;
    x.data<float>()[i] = 1000.0f + static_cast<float>(i % 2);
  }
  LayerNorm({.eps = kEps}, x, weight, out, context());
  for (int i = 0; i < 64; ++i) EXPECT_NEAR(out.data<float>()[i], i % 2 == 0 ? -1 : 1, 1e-4) << i;
}

SLUICE_INSTANTIATE_OP_TEST(LayerNormTest);

}  // namespace
}  // namespace sluice::ops
