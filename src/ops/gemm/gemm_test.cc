#include "ops/gemm/gemm.h"

#include <cmath>
#include <tuple>

#include "ops/common/test_support.h"
#include "quant/float_formats.h"

namespace sluice::ops {
namespace {

struct GemmShape {
  int64_t rows, columns, depth;
};

// Whole and broken tiles of every tier and CUDA kernel in each dimension, one and several chunks of
// K, K cut into parts, and the widths of routers and gates.
constexpr GemmShape kShapes[] = {
    {0, 8, 64},      {1, 1, 2048},    {1, 60, 1408}, {1, 129, 515}, {2, 64, 512},   {3, 24, 520},
    {7, 60, 64},     {7, 16, 7},      {8, 8, 1024},  {8, 256, 96},  {17, 33, 65},   {64, 128, 257},
    {130, 9, 40},    {1000, 16, 64},  {2, 17, 1416}, {9, 40, 3000}, {16, 48, 1032}, {17, 72, 264},
    {64, 128, 1088}, {65, 136, 1032}, {200, 70, 72}};

class GemmTest : public OpTest {
 protected:
  // Of the sum of the magnitudes that are added. Tensor cores cut off what they add to a sum where
  // the vector units round it.
  double Tolerance(DType weights) {
    return context().OnCuda() && weights != DType::kF32 ? 1e-6 : 3e-7;
  }
};
// What only the CPU promises.
using GemmOrderTest = GemmTest;

struct Expected {
  std::vector<double> values;
  std::vector<double> scale;
};

Expected Multiply(const Tensor& x, const Tensor& w, const Tensor& start) {
  const GemmShape shape{x.shape()[0], w.shape()[0], w.shape()[1]};
  const std::vector<double> left = ToDoubles(x);
  const std::vector<double> right = ToDoubles(w);
  Expected expected{ToDoubles(start), std::vector<double>(start.shape().NumElements(), 1.0)};
  for (int64_t m = 0; m < shape.rows; ++m) {
    for (int64_t n = 0; n < shape.columns; ++n) {
      for (int64_t k = 0; k < shape.depth; ++k) {
        const double term = left[m * shape.depth + k] * right[n * shape.depth + k];
        expected.values[m * shape.columns + n] += term;
        expected.scale[m * shape.columns + n] += std::abs(term);
      }
    }
  }
  return expected;
}

Tensor Zeros(const Shape& shape) {
  Tensor zeros = HostTensor(DType::kF32, shape);
  for (int64_t i = 0; i < shape.NumElements(); ++i) zeros.data<float>()[i] = 0.0f;
  return zeros;
}

Tensor Widen(const Tensor& values) {
  Tensor wide = HostTensor(DType::kF32, values.shape());
  ConvertFloats(values, wide);
  return wide;
}

TEST_P(GemmTest, MatchesDoublePrecision) {
  std::mt19937 random(1);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const GemmShape& shape : kShapes) {
      SCOPED_TRACE(::testing::Message()
                   << dtype << " " << shape.rows << " " << shape.columns << " " << shape.depth);
      // On CUDA an f32 x may be rounded to w's dtype: these values survive it.
      const Tensor narrow = Convert(RandomTensor({shape.rows, shape.depth}, random), dtype);
      const Tensor x = Widen(narrow);
      const Tensor w = Convert(RandomTensor({shape.columns, shape.depth}, random), dtype);
      const Expected expected = Multiply(x, w, Zeros({shape.rows, shape.columns}));
      Guarded out(DType::kF32, {shape.rows, shape.columns});
      Gemm({}, x, w, {}, out, context());
      ExpectClose(out, expected.values, expected.scale, Tolerance(dtype));
      if (!context().OnCuda()) continue;
      Guarded from_narrow(DType::kF32, {shape.rows, shape.columns});
      Gemm({}, narrow, w, {}, from_narrow, context());
      ExpectClose(from_narrow, expected.values, expected.scale, Tolerance(dtype));
    }
  }
}

TEST_P(GemmTest, AddsBiasAndAccumulates) {
  std::mt19937 random(2);
  constexpr GemmShape kForms[] = {{9, 21, 100}, {9, 21, 104}, {30, 21, 104}, {70, 34, 1024}};
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const auto& [rows, columns, depth] : kForms) {
      SCOPED_TRACE(::testing::Message() << dtype << " " << rows << " " << columns << " " << depth);
      const Tensor x = Widen(Convert(RandomTensor({rows, depth}, random), dtype));
      const Tensor w = Convert(RandomTensor({columns, depth}, random), dtype);
      const Tensor bias = RandomTensor({columns}, random);
      const Tensor before = RandomTensor({rows, columns}, random);
      const Tensor start = HostTensor(DType::kF32, {rows, columns});
      Guarded out(DType::kF32, {rows, columns});
      for (int64_t i = 0; i < rows * columns; ++i) {
        out.view().data<float>()[i] = before.data<float>()[i];
        start.data<float>()[i] = before.data<float>()[i] + bias.data<float>()[i % columns];
      }
      Gemm({.accumulate = true}, x, w, bias, out, context());
      const Expected expected = Multiply(x, w, start);
      ExpectClose(out, expected.values, expected.scale, Tolerance(dtype));
    }
  }
}

TEST_P(GemmTest, RoundsNoFurtherThanTheWeights) {
  std::mt19937 random(6);
  for (const int64_t rows : {2, 20, 70}) {
    const Tensor x = RandomTensor({rows, 256}, random);
    const Tensor w = Convert(RandomTensor({40, 256}, random), DType::kBF16);
    Guarded out(DType::kF32, {rows, 40});
    Gemm({}, x, w, {}, out, context());
    const Expected expected = Multiply(x, w, Zeros({rows, 40}));
    // Half of a bf16's last bit, relative, in each term.
    ExpectClose(out, expected.values, expected.scale, 1.0 / 512.0);
  }
}

TEST_P(GemmTest, SwiGluIsThatOfTheGatesAndUps) {
  std::mt19937 random(7);
  constexpr GemmShape kForms[] = {{0, 9, 64},    {1, 24, 64},   {3, 21, 100}, {8, 9, 520},
                                  {16, 60, 264}, {17, 40, 136}, {70, 33, 72}};
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const auto& [rows, columns, depth] : kForms) {
      SCOPED_TRACE(::testing::Message() << dtype << " " << rows << " " << columns << " " << depth);
      const Tensor x = Convert(RandomTensor({rows, depth}, random), dtype);
      const Tensor wide = Widen(x);
      const Tensor w = Convert(RandomTensor({2 * columns, depth}, random), dtype);
      const Tensor bias = RandomTensor({2 * columns}, random);
      const Tensor start = HostTensor(DType::kF32, {rows, 2 * columns});
      for (int64_t i = 0; i < start.shape().NumElements(); ++i) {
        start.data<float>()[i] = bias.data<float>()[i % (2 * columns)];
      }
      const Expected products = Multiply(wide, w, start);
      std::vector<double> want;
      std::vector<double> scale;
      for (int64_t i = 0; i < rows * columns; ++i) {
        const int64_t gate = i / columns * 2 * columns + i % columns;
        const double g = products.values[gate];
        const double u = products.values[gate + columns];
        want.push_back(g / (1.0 + std::exp(-g)) * u);
        // The derivative of silu is at most 1.1.
        scale.push_back(1.1 * products.scale[gate] * std::abs(u) +
                        std::abs(g) * products.scale[gate + columns] + std::abs(want.back()));
      }
      Guarded out(DType::kF32, {rows, columns});
      Gemm({.epilogue = GemmEpilogue::kSwiGlu}, wide, w, bias, out, context());
      ExpectClose(out, want, scale, Tolerance(dtype));
      if (!context().OnCuda()) continue;
      Guarded narrow(dtype, {rows, columns});
      Gemm({.epilogue = GemmEpilogue::kSwiGlu}, x, w, bias, narrow, context());
      ExpectClose(narrow, want, scale, dtype == DType::kF32 ? Tolerance(dtype) : 1.0 / 256.0);
    }
  }
}

TEST_P(GemmTest, StridedRowsLeaveTheGapsAlone) {
  std::mt19937 random(3);
  const Tensor wide = RandomTensor({5, 70}, random);
  const Tensor w = RandomTensor({10, 33}, random);
  const int64_t x_strides[] = {70, 1};
  const ConstTensorView x(wide.data<float>() + 7, DType::kF32, {5, 33}, x_strides);
  Guarded out(DType::kF32, {5, 16});
  const int64_t out_strides[] = {16, 1};
  Gemm({}, x, w, {}, TensorView(out.view().raw(), DType::kF32, {5, 10}, out_strides), context());
  for (int64_t m = 0; m < 5; ++m) {
    Guarded row(DType::kF32, {1, 10});
    Gemm({}, x.Slice(m, m + 1), w, {}, row, context());
    ExpectSameBits(row.data<float>(), out.data<float>() + m * 16, 10);
    for (int64_t n = 10; n < 16; ++n) EXPECT_TRUE(std::isnan(out.data<float>()[m * 16 + n]));
  }
  out.ExpectGuardsIntact();
}

TEST_P(GemmOrderTest, ARowHasTheSameBitsAloneAndInCompany) {
  std::mt19937 random(4);
  OpRunner one_thread(GetParam(), 1);
  OpRunner five_threads(GetParam(), 5);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const int64_t columns : {1, 60, 200}) {
      const int64_t depth = 1101;
      const Tensor x = RandomTensor({17, depth}, random);
      const Tensor w = Convert(RandomTensor({columns, depth}, random), dtype);
      Guarded together(DType::kF32, {17, columns});
      Guarded threads(DType::kF32, {17, columns});
      Gemm({}, x, w, {}, together, one_thread.context());
      Gemm({}, x, w, {}, threads, five_threads.context());
      ExpectSameBits(together.data<float>(), threads.data<float>(), 17 * columns);
      for (int64_t begin = 0; begin < 17; ++begin) {
        for (const int64_t count : {1, 2, 5}) {
          if (begin + count > 17) continue;
          Guarded part(DType::kF32, {count, columns});
          Gemm({}, x.view().Slice(begin, begin + count), w, {}, part, context());
          ExpectSameBits(part.data<float>(), together.data<float>() + begin * columns,
                         count * columns);
        }
      }
    }
  }
}

// Numbers of rows between which CUDA's fast kernels change, with K in one part and in several.
TEST_P(GemmOrderTest, ARowHasTheSameBitsInABatchOfAnySize) {
  std::mt19937 random(6);
  constexpr int64_t kRows = 300;
  for (const int64_t depth : {72, 1608}) {
    for (const int64_t columns : {1, 60, 264}) {
      const DType input = context().ProductDType(DType::kBF16);
      const Tensor x = Convert(RandomTensor({kRows, depth}, random), input);
      const Tensor w = Convert(RandomTensor({columns, depth}, random), DType::kBF16);
      const Tensor bias = RandomTensor({columns}, random);
      const Tensor before = RandomTensor({kRows, columns}, random);
      const auto run = [&](int64_t begin, int64_t end) {
        Guarded out(DType::kF32, {end - begin, columns});
        std::copy_n(before.data<float>() + begin * columns, (end - begin) * columns,
                    out.view().data<float>());
        Gemm({.accumulate = true}, x.view().Slice(begin, end), w, bias, out, context());
        return out;
      };
      const Guarded all = run(0, kRows);
      for (const int64_t count : {1, 8, 16, 17, 64, 65, 128, 129, 200}) {
        for (const int64_t begin : {int64_t{0}, kRows - count}) {
          const Guarded part = run(begin, begin + count);
          ExpectSameBits(part.data<float>(), all.data<float>() + begin * columns, count * columns);
        }
      }
    }
  }
}

TEST_P(GemmTest, RefusesShapesThatDoNotFit) {
  std::mt19937 random(5);
  const Tensor x = RandomTensor({2, 8}, random);
  const Tensor w = RandomTensor({4, 9}, random);
  Guarded out(DType::kF32, {2, 4});
  EXPECT_THROW(Gemm({}, x, w, {}, out, context()), InternalError);
}

SLUICE_INSTANTIATE_OP_TEST(GemmTest);
SLUICE_INSTANTIATE_INVARIANT_OP_TEST(GemmOrderTest);

}  // namespace
}  // namespace sluice::ops
