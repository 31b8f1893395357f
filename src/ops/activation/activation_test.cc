#include <algorithm>
#include <cmath>

#include "ops/activation/clip.h"
#include "ops/activation/gated_add.h"
#include "ops/activation/silu_mul.h"
#include "ops/common/test_support.h"

namespace sluice::ops {
namespace {

double Sigmoid(double x) {
  return 1.0 / (1.0 + std::exp(-x));
}

class ActivationTest : public OpTest {};

TEST_P(ActivationTest, SiluMulMatchesDoublePrecision) {
  std::mt19937 random(1);
  for (const int64_t tokens : {0, 1, 2, 7, 8, 64, 1000}) {
    for (const int64_t width : {1, 37, 768}) {
      const Tensor gate_up = RandomTensor({tokens, 2 * width}, random, 20.0f);
      Guarded out(DType::kF32, {tokens, width});
      SiluMul(gate_up, out, context());
      std::vector<double> want;
      for (int64_t t = 0; t < tokens; ++t) {
        const float* row = gate_up.data<float>() + t * 2 * width;
        for (int64_t i = 0; i < width; ++i)
          want.push_back(row[i] * Sigmoid(row[i]) * row[width + i]);
      }
      ExpectRelative(out, want, 1e-6);
    }
  }
}

TEST_P(ActivationTest, SiluIsRightAtTheEnds) {
  const float gates[] = {-200.0f, -88.0f, -80.0f, -1e-20f, 0.0f,  1e-20f, 80.0f, 88.0f,
                         200.0f,  3e38f,  -3e38f, 1.0f,    -1.0f, 2.0f,   -2.0f, 5.0f};
  const Tensor gate_up = HostTensor(DType::kF32, {1, 32});
  for (int i = 0; i < 16; ++i) {
    gate_up.data<float>()[i] = gates[i];
    gate_up.data<float>()[16 + i] = 1.0f;
  }
  Guarded out(DType::kF32, {1, 16});
  SiluMul(gate_up, out, context());
  std::vector<double> want;
  for (const float gate : gates) want.push_back(gate * Sigmoid(gate));
  // Below -87.3 the result is within 1e-35 of 0 and need not keep its relative accuracy.
  ExpectRelative(out, want, 1e-6, 1e-28);
}

TEST_P(ActivationTest, NanStaysNan) {
  const Tensor gate_up = HostTensor(DType::kF32, {1, 34});
  std::fill_n(gate_up.data<float>(), 34, 1.0f);
  gate_up.data<float>()[3] = gate_up.data<float>()[16] = std::nanf("");
  Guarded out(DType::kF32, {1, 17});
  SiluMul(gate_up, out, context());
  for (int i = 0; i < 17; ++i) EXPECT_EQ(std::isnan(out.data<float>()[i]), i == 3 || i == 16) << i;
}

TEST_P(ActivationTest, SiluMulRoundsToTheInputOfAProduct) {
  std::mt19937 random(3);
  const Tensor gate_up = RandomTensor({7, 2 * 96}, random, 4.0f);
  Guarded wide(DType::kF32, {7, 96});
  SiluMul(gate_up, wide, context());
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    if (dtype != DType::kF32 && !context().OnCuda()) continue;
    Tensor values(DType::kF32, {7, 96});
    std::copy_n(wide.data<float>(), 7 * 96, values.data<float>());
    const std::vector<double> want = ToDoubles(Convert(values, dtype));
    Guarded narrow(dtype, {7, 96});
    SiluMul(gate_up, narrow, context());
    ExpectRelative(narrow, want, 0.0);
  }
}

TEST_P(ActivationTest, ClipBoundsBothSidesAndKeepsNan) {
  std::mt19937 random(4);
  for (const int64_t rows : {0, 1, 7, 64, 1000}) {
    const Tensor values = RandomTensor({rows, 53}, random, 3.0f);
    Guarded x(DType::kF32, {rows, 53});
    std::copy_n(values.data<float>(), rows * 53, x.view().data<float>());
    if (rows > 0) x.view().data<float>()[5] = std::nanf("");
    Clip(1.5f, x, context());
    x.ExpectGuardsIntact();
    for (int64_t i = 0; i < rows * 53; ++i) {
      if (i == 5) {
        EXPECT_TRUE(std::isnan(x.data<float>()[i]));
      } else {
        ASSERT_EQ(x.data<float>()[i], std::clamp(values.data<float>()[i], -1.5f, 1.5f)) << i;
      }
    }
  }
}

TEST_P(ActivationTest, GatedAddAndAdd) {
  std::mt19937 random(2);
  for (const int64_t tokens : {0, 1, 7, 64, 1000}) {
    const int64_t width = 51;
    const Tensor gate = RandomTensor({tokens, 1}, random, 4.0f);
    const Tensor y = RandomTensor({tokens, width}, random);
    const Tensor before = RandomTensor({tokens, width}, random);
    Guarded gated(DType::kF32, {tokens, width});
    Guarded added(DType::kF32, {tokens, width});
    std::copy_n(before.data<float>(), tokens * width, gated.view().data<float>());
    std::copy_n(before.data<float>(), tokens * width, added.view().data<float>());
    SigmoidGatedAdd(gate, y, gated, context());
    Add(y, added, context());
    std::vector<double> want_gated;
    std::vector<double> want_added;
    for (int64_t i = 0; i < tokens * width; ++i) {
      const double start = before.data<float>()[i];
      want_gated.push_back(start + Sigmoid(gate.data<float>()[i / width]) * y.data<float>()[i]);
      want_added.push_back(start + y.data<float>()[i]);
    }
    const std::vector<double> scale(want_gated.size(), 2.0);
    ExpectClose(gated, want_gated, scale, 2e-7);
    ExpectClose(added, want_added, scale, 1e-7);
  }
}

SLUICE_INSTANTIATE_OP_TEST(ActivationTest);

}  // namespace
}  // namespace sluice::ops
