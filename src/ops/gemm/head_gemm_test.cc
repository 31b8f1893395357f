#include "ops/gemm/head_gemm.h"

#include <cmath>

#include "ops/common/test_support.h"
#include "quant/float_formats.h"

namespace sluice::ops {
namespace {

struct Form {
  int64_t tokens, heads, columns, depth;
};

constexpr Form kForms[] = {{0, 2, 8, 16},   {1, 128, 16, 24}, {2, 3, 65, 128}, {7, 4, 24, 16},
                           {8, 1, 130, 17}, {64, 2, 40, 520}, {130, 2, 9, 40}, {1000, 1, 16, 8}};

class HeadGemmTest : public OpTest {};
// What only the CPU promises.
using HeadGemmOrderTest = HeadGemmTest;

// K columns, from `offset` on, of each head of each token's wider rows.
ConstTensorView Inner(const ConstTensorView& wide, int64_t offset, int64_t depth) {
  const int64_t strides[] = {wide.stride(0), wide.stride(1), 1};
  const auto* data = static_cast<const std::byte*>(wide.raw());
  return ConstTensorView(data + offset * static_cast<int64_t>(SizeOf(wide.dtype())), wide.dtype(),
                         {wide.dim(0), wide.dim(1), depth}, strides);
}

TEST_P(HeadGemmTest, MultipliesEachHeadByItsMatrix) {
  std::mt19937 random(1);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const Form& form : kForms) {
      SCOPED_TRACE(::testing::Message() << dtype << " " << form.tokens << " " << form.heads << " "
                                        << form.columns << " " << form.depth);
      // x and out are parts of wider rows, as in a decoder.
      // On CUDA an f32 x may be rounded to w's dtype: these values survive it.
      const Tensor narrow =
          Convert(RandomTensor({form.tokens, form.heads, form.depth + 16}, random), dtype);
      const Tensor wide = HostTensor(DType::kF32, narrow.shape());
      ConvertFloats(narrow, wide);
      const ConstTensorView x = Inner(wide.view(), 8, form.depth);
      const Tensor w = Convert(RandomTensor({form.heads, form.columns, form.depth}, random), dtype);
      Guarded out(DType::kF32, {form.tokens, form.heads, form.columns});
      HeadGemm(x, w, out, context());
      out.ExpectGuardsIntact();
      const std::vector<double> weights = ToDoubles(w);
      std::vector<double> want;
      std::vector<double> scale;
      for (int64_t t = 0; t < form.tokens; ++t) {
        for (int64_t h = 0; h < form.heads; ++h) {
          const float* row = x.data<float>() + t * x.stride(0) + h * x.stride(1);
          for (int64_t n = 0; n < form.columns; ++n) {
            double sum = 0.0;
            double magnitude = 1e-6;
            for (int64_t k = 0; k < form.depth; ++k) {
              const double term = row[k] * weights[(h * form.columns + n) * form.depth + k];
              sum += term;
              magnitude += std::abs(term);
            }
            want.push_back(sum);
            scale.push_back(magnitude);
          }
        }
      }
      ExpectClose(out, want, scale, 1e-6);
      if (!context().OnCuda()) continue;
      Guarded from_narrow(DType::kF32, {form.tokens, form.heads, form.columns});
      HeadGemm(Inner(narrow.view(), 8, form.depth), w, from_narrow, context());
      ExpectClose(from_narrow, want, scale, 1e-6);
    }
  }
}

TEST_P(HeadGemmOrderTest, ARowsBitsDoNotDependOnItsCompany) {
  std::mt19937 random(2);
  const Tensor x = RandomTensor({40, 3, 72}, random);
  const Tensor w = Convert(RandomTensor({3, 33, 72}, random), DType::kBF16);
  Guarded whole(DType::kF32, {40, 3, 33});
  HeadGemm(x, w, whole, context());
  for (int64_t t = 0; t < 40; ++t) {
    Guarded alone(DType::kF32, {1, 3, 33});
    HeadGemm(x.view().Slice(t, t + 1), w, alone, context());
    ExpectSameBits(alone.data<float>(), whole.data<float>() + t * 3 * 33, 3 * 33);
  }
}

SLUICE_INSTANTIATE_OP_TEST(HeadGemmTest);
SLUICE_INSTANTIATE_INVARIANT_OP_TEST(HeadGemmOrderTest);

}  // namespace
}  // namespace sluice::ops
