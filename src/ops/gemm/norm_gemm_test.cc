#include "ops/gemm/norm_gemm.h"

#include <cmath>

#include "ops/common/test_support.h"
#include "ops/norm/norm.h"
#include "quant/float_formats.h"

namespace sluice::ops {
namespace {

constexpr float kEps = 1e-5f;

struct NormGemmShape {
  int64_t rows, columns, depth;
};

// Rows normed by each block, by a kernel before, and in tiles; few and many blocks; widths that
// leave a block's warps unlike much of a row, and one that takes whole chunks of K twice over.
constexpr NormGemmShape kShapes[] = {
    {0, 8, 64},    {1, 48, 64},  {1, 5000, 136},  {2, 40, 2048},  {3, 24, 520}, {4, 33, 1032},
    {5, 16, 8},    {7, 60, 72},  {8, 64, 1024},   {9, 40, 3000},  {12, 24, 64}, {17, 72, 264},
    {1, 24, 7176}, {2, 64, 515}, {64, 136, 1088}, {1, 16, 16'392}};

struct Sum {
  double value = 0.0;
  double scale = 0.0;  // the sum of its terms' magnitudes
};

Sum Product(const Tensor& x, const Tensor& w, int64_t row, int64_t column) {
  const int64_t depth = x.shape()[1];
  Sum sum;
  for (int64_t k = 0; k < depth; ++k) {
    const double term =
        double{x.data<float>()[row * depth + k]} * double{w.data<float>()[column * depth + k]};
    sum.value += term;
    sum.scale += std::abs(term);
  }
  return sum;
}

Tensor Widen(const Tensor& values) {
  Tensor wide = HostTensor(DType::kF32, values.shape());
  ConvertFloats(values, wide);
  return wide;
}

class NormGemmTest : public OpTest {
 protected:
  // With Norm and Gemm one after the other: by bits on the CPU, else with f32 inputs.
  void Compare(const NormGemmDesc& desc, DType dtype, const NormGemmShape& shape, bool with_bias) {
    const bool swiglu = desc.epilogue == GemmEpilogue::kSwiGlu;
    SCOPED_TRACE(::testing::Message() << dtype << " " << shape.rows << " " << shape.columns << " "
                                      << shape.depth << " swiglu " << swiglu);
    std::mt19937 random(1);
    const int64_t rows_of_w = swiglu ? 2 * shape.columns : shape.columns;
    const Tensor x = RandomTensor({shape.rows, shape.depth}, random, 3.0f);
    const Tensor norm_weight = RandomTensor({shape.depth}, random);
    const Tensor w = Convert(RandomTensor({rows_of_w, shape.depth}, random), dtype);
    const Tensor bias = RandomTensor({rows_of_w}, random);
    const ConstTensorView bias_view = with_bias ? ConstTensorView(bias) : ConstTensorView();
    const Tensor normed = HostTensor(DType::kF32, x.shape());
    Guarded out(DType::kF32, {shape.rows, shape.columns});
    NormGemm(desc, x, norm_weight, w, bias_view, out, context());
    Norm(desc.norm, x, norm_weight, normed, context());
    if (!context().OnCuda()) {
      Guarded steps(DType::kF32, {shape.rows, shape.columns});
      Gemm({.epilogue = desc.epilogue}, normed, w, bias_view, steps, context());
      out.ExpectGuardsIntact();
      ExpectSameBits(out.data<float>(), steps.data<float>(), shape.rows * shape.columns);
      return;
    }
    const Tensor wide = Widen(w);
    const auto sum_of = [&](int64_t row, int64_t column) {
      Sum sum = Product(normed, wide, row, column);
      if (with_bias) sum.value += bias.data<float>()[column];
      sum.scale += 1.0;
      return sum;
    };
    std::vector<double> want;
    std::vector<double> scale;
    for (int64_t i = 0; i < shape.rows * shape.columns; ++i) {
      const int64_t row = i / shape.columns;
      const Sum gate = sum_of(row, i % shape.columns);
      if (!swiglu) {
        want.push_back(gate.value);
        scale.push_back(gate.scale);
        continue;
      }
      const Sum up = sum_of(row, i % shape.columns + shape.columns);
      want.push_back(gate.value / (1.0 + std::exp(-gate.value)) * up.value);
      // The derivative of silu is at most 1.1.
      scale.push_back(1.1 * gate.scale * std::abs(up.value) + std::abs(gate.value) * up.scale);
    }
    // Half of a bf16's last bit, relative, in each term.
    ExpectClose(out, want, scale, dtype == DType::kF32 ? 1e-6 : 1.0 / 512.0);
  }
};

TEST_P(NormGemmTest, IsTheNormAndThenTheProduct) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const NormGemmShape& shape : kShapes) {
      if (dtype == DType::kF32 && shape.depth > 3000) continue;
      Compare({.norm = {.eps = kEps}}, dtype, shape, /*with_bias=*/false);
    }
  }
}

TEST_P(NormGemmTest, NormsLayersAndAddsBias) {
  for (const NormGemmShape& shape : kShapes) {
    if (shape.depth > 3000) continue;
    Compare({.norm = {.kind = NormKind::kLayer, .eps = kEps}}, DType::kBF16, shape,
            /*with_bias=*/true);
  }
}

TEST_P(NormGemmTest, GatesWhatUpMakes) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    for (const NormGemmShape& shape : kShapes) {
      if (shape.depth > 3000) continue;
      Compare({.norm = {.eps = kEps}, .epilogue = GemmEpilogue::kSwiGlu}, dtype, shape,
              /*with_bias=*/shape.rows % 2 == 1);
    }
  }
}

// A rounding of the norm, or of its input, other than to w's dtype would show.
TEST_P(NormGemmTest, NormsRowsOfAWiderMatrixEachForItself) {
  std::mt19937 random(2);
  const Tensor wide = RandomTensor({4, 200}, random, 5.0f);
  const Tensor norm_weight = RandomTensor({64}, random);
  const Tensor w = Convert(RandomTensor({24, 64}, random), DType::kBF16);
  const int64_t strides[] = {200, 1};
  const ConstTensorView x(wide.data<float>() + 40, DType::kF32, {4, 64}, strides);
  Guarded out(DType::kF32, {4, 24});
  NormGemm({.norm = {.eps = kEps}}, x, norm_weight, w, {}, out, context());
  out.ExpectGuardsIntact();
  for (int64_t row = 0; row < 4; ++row) {
    double squares = 0.0;
    for (int64_t k = 0; k < 64; ++k) squares += std::pow(x.data<float>()[row * 200 + k], 2.0);
    const double root = std::sqrt(squares / 64 + kEps);
    const std::vector<double> weights = ToDoubles(w);
    for (int64_t n = 0; n < 24; ++n) {
      double sum = 0.0;
      double scale = 0.0;
      for (int64_t k = 0; k < 64; ++k) {
        const double term = x.data<float>()[row * 200 + k] / root * norm_weight.data<float>()[k] *
                            weights[n * 64 + k];
        sum += term;
        scale += std::abs(term);
      }
      EXPECT_NEAR(out.data<float>()[row * 24 + n], sum, scale / 512.0) << row << " " << n;
    }
  }
}

TEST_P(NormGemmTest, RefusesShapesThatDoNotFit) {
  std::mt19937 random(3);
  const Tensor x = RandomTensor({2, 8}, random);
  const Tensor w = RandomTensor({4, 8}, random);
  Guarded out(DType::kF32, {2, 4});
  EXPECT_THROW(
      NormGemm({.norm = {.eps = kEps}}, x, RandomTensor({9}, random), w, {}, out, context()),
      InternalError);
  EXPECT_THROW(NormGemm({.norm = {.eps = kEps}, .epilogue = GemmEpilogue::kSwiGlu}, x,
                        RandomTensor({8}, random), w, {}, out, context()),
               InternalError);
}

SLUICE_INSTANTIATE_OP_TEST(NormGemmTest);

}  // namespace
}  // namespace sluice::ops
