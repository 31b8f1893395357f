#include "ops/router/norm_router.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/common/test_support.h"

namespace sluice::ops {
namespace {

constexpr float kEps = 1e-6f;

struct Case {
  int64_t tokens;
  int64_t width;
  RouterDesc router;
  bool biased = false;
  NormKind norm = NormKind::kRms;
};

RouterDesc Softmax(int experts, int top_k) {
  return {.num_experts = experts, .top_k = top_k};
}
RouterDesc Grouped(int experts, int top_k) {
  return {.num_experts = experts,
          .top_k = top_k,
          .score = RouterScore::kSigmoid,
          .num_groups = 8,
          .top_groups = 4,
          .scale = 2.5f};
}

std::vector<double> Normed(const Case& c, const Tensor& x, const Tensor& weight) {
  std::vector<double> rows = ToDoubles(x);
  const auto count = static_cast<double>(c.width);
  for (int64_t t = 0; t < c.tokens; ++t) {
    double* row = rows.data() + t * c.width;
    double mean = 0.0;
    for (int64_t i = 0; i < c.width; ++i) mean += row[i] / count;
    if (c.norm == NormKind::kRms) mean = 0.0;
    double squares = 0.0;
    for (int64_t i = 0; i < c.width; ++i) squares += (row[i] - mean) * (row[i] - mean);
    const double root = std::sqrt(squares / count + kEps);
    for (int64_t i = 0; i < c.width; ++i) row[i] = (row[i] - mean) / root * weight.data<float>()[i];
  }
  return rows;
}

class NormRouterTest : public OpTest {
 protected:
  // h is the norm of x. The choice is what Router says of logits that differ from h's product by no
  // more than rounding: nudged by that, no expert left out is better than one chosen.
  void Check(const Case& c, DType dtype, std::mt19937& random) {
    const RouterDesc& router = c.router;
    const Tensor x = RandomTensor({c.tokens, c.width}, random, 3.0f);
    const Tensor norm_weight = RandomTensor({c.width}, random);
    const Tensor matrix = Convert(RandomTensor({router.num_experts, c.width}, random, 0.3f), dtype);
    const Tensor bias = RandomTensor({router.num_experts}, random, 0.2f);
    const DType h_dtype = context().ProductDType(dtype);
    Guarded h(h_dtype, {c.tokens, c.width});
    Guarded weights(DType::kF32, {c.tokens, router.top_k});
    Guarded ids(DType::kI32, {c.tokens, router.top_k});
    // Again and again: what a call leaves behind must suit the next one.
    for (int i = 0; i < 3; ++i) {
      NormRouter({.norm = {.kind = c.norm, .eps = kEps}, .router = router}, x, norm_weight, matrix,
                 c.biased ? bias.view() : ConstTensorView(), h, weights, ids, context());
    }
    const std::vector<double> want_h = Normed(c, x, norm_weight);
    ExpectRelative(h, want_h, h_dtype == DType::kF32 ? 1e-5 : 1.0 / 200, 0.02);
    weights.ExpectGuardsIntact();
    ids.ExpectGuardsIntact();

    // Logits of the h that came, in f32 from doubles, and their choice.
    Tensor h_copy = HostTensor(h_dtype, {c.tokens, c.width});
    std::copy_n(static_cast<const std::byte*>(h.view().raw()), h_copy.view().NumBytes(),
                static_cast<std::byte*>(h_copy.view().raw()));
    const std::vector<double> rows = ToDoubles(h_copy);
    const std::vector<double> w = ToDoubles(matrix);
    Tensor logits = HostTensor(DType::kF32, {c.tokens, router.num_experts});
    for (int64_t t = 0; t < c.tokens; ++t) {
      for (int64_t e = 0; e < router.num_experts; ++e) {
        double sum = 0.0;
        for (int64_t k = 0; k < c.width; ++k) sum += rows[t * c.width + k] * w[e * c.width + k];
        logits.data<float>()[t * router.num_experts + e] = static_cast<float>(sum);
      }
    }
    Guarded want_weights(DType::kF32, {c.tokens, router.top_k});
    Guarded want_ids(DType::kI32, {c.tokens, router.top_k});
    OpRunner reference(Backend{"reference", CpuTier::kPortable, true});
    Router(router, logits, c.biased ? bias.view() : ConstTensorView(), want_weights, want_ids, {},
           reference.context());
    int64_t other = 0;
    for (int64_t i = 0; i < c.tokens * router.top_k; ++i) {
      if (ids.data<int32_t>()[i] != want_ids.data<int32_t>()[i]) {
        ++other;
        continue;
      }
      const double weight = want_weights.data<float>()[i];
      EXPECT_NEAR(weights.data<float>()[i], weight, 1e-4 * std::abs(weight) + 1e-6) << i;
    }
    // Two logits hardly ever come so near that the order of their sums decides.
    EXPECT_LE(other, c.tokens * router.top_k / 200);
  }
};

TEST_P(NormRouterTest, MatchesItsParts) {
  std::mt19937 random(1);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const int64_t tokens : {0, 1, 2, 3, 7, 8, 9, 64}) {
      const Case cases[] = {
          {tokens, 64, Softmax(8, 2)},     {tokens, 2048, Softmax(60, 4), false, NormKind::kLayer},
          {tokens, 520, Softmax(128, 8)},  {tokens, 48, Grouped(256, 8), true},
          {tokens, 104, Softmax(512, 10)}, {tokens, 27, Softmax(16, 4)}};
      for (const Case& c : cases) {
        if (c.width == 2048 && tokens > 8) continue;
        SCOPED_TRACE(::testing::Message()
                     << dtype << " " << c.tokens << " " << c.width << " " << c.router.num_experts);
        Check(c, dtype, random);
      }
    }
  }
  Check({1, 7168, Grouped(64, 8), true}, DType::kBF16, random);
}

// What the CPU promises, and CUDA with batch_invariant: a token's bits do not depend on the others.
using NormRouterOrderTest = NormRouterTest;

TEST_P(NormRouterOrderTest, ATokenHasTheSameBitsAloneAndInCompany) {
  std::mt19937 random(4);
  constexpr int64_t kTokens = 150;
  constexpr int64_t kWidth = 520;
  const RouterDesc router = Softmax(128, 8);
  const DType dtype = context().ProductDType(DType::kBF16);
  const Tensor x = RandomTensor({kTokens, kWidth}, random, 3.0f);
  const Tensor norm_weight = RandomTensor({kWidth}, random);
  const Tensor matrix = Convert(RandomTensor({128, kWidth}, random, 0.3f), DType::kBF16);
  struct Out {
    Guarded h, weights, ids;
  };
  const auto run = [&](int64_t begin, int64_t end) {
    Out out{{dtype, {end - begin, kWidth}},
            {DType::kF32, {end - begin, 8}},
            {DType::kI32, {end - begin, 8}}};
    NormRouter({.norm = {.eps = kEps}, .router = router}, x.view().Slice(begin, end), norm_weight,
               matrix, {}, out.h, out.weights, out.ids, context());
    return out;
  };
  const Out all = run(0, kTokens);
  for (const int64_t count : {1, 5, 70}) {
    for (int64_t begin = 0; begin + count <= kTokens; begin += 19) {
      const Out part = run(begin, begin + count);
      ExpectSameBits(part.weights.data<float>(), all.weights.data<float>() + begin * 8, count * 8);
      ExpectSameBits(part.ids.data<int32_t>(), all.ids.data<int32_t>() + begin * 8, count * 8);
      const int64_t h_bytes = kWidth * static_cast<int64_t>(SizeOf(dtype));
      ExpectSameBits(part.h.view().raw(),
                     static_cast<const std::byte*>(all.h.view().raw()) + begin * h_bytes,
                     count * h_bytes / 4);
    }
  }
}

// Rows with the same logits everywhere: ties go to the lower expert, wherever it was multiplied.
TEST_P(NormRouterTest, TiesGoToTheLowerExpert) {
  std::mt19937 random(2);
  const Tensor x = RandomTensor({3, 96}, random);
  const Tensor norm_weight = RandomTensor({96}, random);
  const Tensor row = RandomTensor({96}, random);
  Tensor rows = HostTensor(DType::kF32, {60, 96});
  for (int e = 0; e < 60; ++e) {
    for (int i = 0; i < 96; ++i) {
      rows.data<float>()[e * 96 + i] = e % 20 == 19 ? 0.0f : row.data<float>()[i];
    }
  }
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Tensor matrix = Convert(rows, dtype);
    Guarded h(context().ProductDType(dtype), {3, 96});
    Guarded weights(DType::kF32, {3, 8});
    Guarded ids(DType::kI32, {3, 8});
    NormRouter({.norm = {.eps = kEps}, .router = Softmax(60, 8)}, x, norm_weight, matrix, {}, h,
               weights, ids, context());
    for (int t = 0; t < 3; ++t) {
      const int32_t* of_token = ids.data<int32_t>() + t * 8;
      // Either all alike come first, or the three that are zero do.
      const int zeros = of_token[0] == 19 ? 3 : 0;
      const int32_t want_zeros[] = {19, 39, 59};
      for (int j = 0; j < 8; ++j) {
        EXPECT_EQ(of_token[j], j < zeros ? want_zeros[j] : j - zeros) << t << " " << j;
      }
    }
  }
}

SLUICE_INSTANTIATE_OP_TEST(NormRouterTest);
SLUICE_INSTANTIATE_INVARIANT_OP_TEST(NormRouterOrderTest);

}  // namespace
}  // namespace sluice::ops
