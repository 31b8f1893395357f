#include "ops/attention/prepare_qkv.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "ops/common/test_support.h"

namespace sluice::ops {
namespace {

constexpr float kEps = 1e-5f;
constexpr int kPageSize = 4;

class PrepareQkvTest : public OpTest {};

// Slots of `tokens` rows in pages taken from the back, every fifth row's negative.
Tensor Slots(int64_t tokens, int64_t num_slots) {
  Tensor slots = HostTensor(DType::kI64, {tokens});
  for (int64_t t = 0; t < tokens; ++t) {
    slots.data<int64_t>()[t] = t % 5 == 3 ? -1 : num_slots - 1 - t;
  }
  return slots;
}

int64_t NumPages(int64_t tokens) {
  return tokens / kPageSize + 2;
}

// x[i] /= the root of the mean square, times weight[i].
void Norm(double* x, int64_t width, const float* weight) {
  double squares = 0.0;
  for (int64_t i = 0; i < width; ++i) squares += x[i] * x[i];
  const double root = std::sqrt(squares / static_cast<double>(width) + kEps);
  for (int64_t i = 0; i < width; ++i) x[i] = x[i] / root * weight[i];
}

void Rotate(double* x, RopePairing pairing, const float* cos_sin, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    double& first = x[pairing == RopePairing::kAdjacent ? 2 * i : i];
    double& second = x[pairing == RopePairing::kAdjacent ? 2 * i + 1 : i + half];
    const double a = first;
    first = a * cos_sin[i] - second * cos_sin[half + i];
    second = second * cos_sin[i] + a * cos_sin[half + i];
  }
}

// Within a few roundings, the last of them to `dtype`.
void ExpectNear(double got, double want, DType dtype) {
  const double unit = dtype == DType::kBF16 ? 1.0 / 256 : 1e-6;
  EXPECT_NEAR(got, want, unit * (1.0 + std::abs(want)));
}

struct Form {
  int64_t tokens;
  int heads, kv_heads, head_dim, rotary_dim;
};

struct Case {
  Form form;
  QkNorm norm;
  std::optional<float> clip;
  RopePairing pairing;
  DType dtype;
};

// What PrepareQkv gives, in double precision: rows of q, k, v.
std::vector<double> Expected(const Case& c, const Tensor& qkv, const Tensor& cos_sin,
                             const Tensor& q_norm, const Tensor& k_norm) {
  const Form& f = c.form;
  std::vector<double> rows = ToDoubles(qkv);
  const int64_t width = int64_t{f.heads + 2 * f.kv_heads} * f.head_dim;
  const auto norm = [&](double* part, int64_t heads, const Tensor& weight) {
    if (c.norm == QkNorm::kFullWidth) return Norm(part, heads * f.head_dim, weight.data<float>());
    if (c.norm == QkNorm::kNone) return;
    for (int64_t h = 0; h < heads; ++h) {
      Norm(part + h * f.head_dim, f.head_dim, weight.data<float>());
    }
  };
  for (int64_t t = 0; t < f.tokens; ++t) {
    double* row = rows.data() + t * width;
    norm(row, f.heads, q_norm);
    norm(row + f.heads * f.head_dim, f.kv_heads, k_norm);
    for (int64_t i = 0; c.clip && i < width; ++i) {
      row[i] = std::clamp<double>(row[i], -*c.clip, *c.clip);
    }
    for (int h = 0; h < f.heads + f.kv_heads; ++h) {
      Rotate(row + h * f.head_dim, c.pairing, cos_sin.data<float>() + t * f.rotary_dim,
             f.rotary_dim / 2);
    }
  }
  return rows;
}

void RunCase(const Case& c, std::mt19937& random, OpContext& context) {
  const Form& f = c.form;
  const int64_t width = int64_t{f.heads + 2 * f.kv_heads} * f.head_dim;
  const bool joint = c.norm == QkNorm::kFullWidth;
  const Tensor qkv = RandomTensor({f.tokens, width}, random, 2.0f);
  const Tensor cos_sin = RandomTensor({f.tokens, 2, f.rotary_dim / 2}, random);
  const Tensor q_norm = RandomTensor({joint ? f.heads * f.head_dim : f.head_dim}, random);
  const Tensor k_norm = RandomTensor({joint ? f.kv_heads * f.head_dim : f.head_dim}, random);
  const Shape pool = {NumPages(f.tokens), f.kv_heads, kPageSize, f.head_dim};
  const Tensor slots = Slots(f.tokens, pool[0] * kPageSize);
  Tensor empty = HostTensor(DType::kF32, pool);
  std::fill_n(empty.data<float>(), pool.NumElements(), 77.0f);
  const Tensor k = Convert(empty, c.dtype);
  const Tensor v = Convert(empty, c.dtype);
  Guarded x(DType::kF32, qkv.shape());
  std::copy_n(qkv.data<float>(), qkv.shape().NumElements(), x.view().data<float>());
  PrepareQkv({.num_heads = f.heads,
              .num_kv_heads = f.kv_heads,
              .head_dim = f.head_dim,
              .norm = c.norm,
              .norm_eps = kEps,
              .clip = c.clip,
              .pairing = c.pairing},
             cos_sin, q_norm, k_norm, slots, x, {k, v}, context);
  x.ExpectGuardsIntact();
  const std::vector<double> want = Expected(c, qkv, cos_sin, q_norm, k_norm);
  const Tensor keys = Convert(k, DType::kF32);
  const Tensor values = Convert(v, DType::kF32);
  int64_t untouched = pool.NumElements();
  for (int64_t t = 0; t < f.tokens; ++t) {
    const double* row = want.data() + t * width;
    for (int64_t i = 0; i < f.heads * f.head_dim; ++i) {
      ExpectNear(x.data<float>()[t * width + i], row[i], DType::kF32);
    }
    const int64_t slot = slots.data<int64_t>()[t];
    if (slot < 0) continue;
    untouched -= f.kv_heads * f.head_dim;
    for (int64_t i = 0; i < f.kv_heads * f.head_dim; ++i) {
      const int64_t head = slot / kPageSize * f.kv_heads + i / f.head_dim;
      const int64_t at = (head * kPageSize + slot % kPageSize) * f.head_dim + i % f.head_dim;
      ExpectNear(keys.data<float>()[at], row[f.heads * f.head_dim + i], c.dtype);
      ExpectNear(values.data<float>()[at], row[(f.heads + f.kv_heads) * f.head_dim + i], c.dtype);
    }
  }
  EXPECT_EQ(std::count(keys.data<float>(), keys.data<float>() + pool.NumElements(), 77.0f),
            untouched);
}

TEST_P(PrepareQkvTest, NormsClipsRotatesAndWritesPages) {
  constexpr Form kForms[] = {{0, 4, 2, 64, 64},     {1, 32, 4, 128, 128}, {7, 3, 3, 24, 24},
                             {8, 16, 16, 128, 128}, {64, 6, 2, 80, 20},   {1000, 2, 1, 16, 10},
                             {2, 1, 1, 256, 256}};
  constexpr QkNorm kNorms[] = {QkNorm::kNone, QkNorm::kPerHead, QkNorm::kFullWidth};
  std::mt19937 random(1);
  int number = 0;
  for (const Form& form : kForms) {
    for (const QkNorm norm : kNorms) {
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        SCOPED_TRACE(::testing::Message() << form.tokens << " x " << form.heads << " x "
                                          << form.head_dim << ", norm " << static_cast<int>(norm));
        ++number;
        RunCase({.form = form,
                 .norm = norm,
                 .clip = number % 3 == 0 ? std::optional(0.7f) : std::nullopt,
                 .pairing = number % 2 == 0 ? RopePairing::kAdjacent : RopePairing::kHalves,
                 .dtype = dtype},
                random, context());
      }
    }
  }
}

TEST_P(PrepareQkvTest, PreparesLatentRows) {
  struct LatentForm {
    int64_t tokens;
    int heads, latent_dim, rope_dim, nope_dim;
  };
  constexpr LatentForm kForms[] = {
      {0, 2, 16, 8, 8}, {1, 128, 512, 64, 128}, {7, 3, 40, 8, 5}, {100, 2, 24, 16, 8}};
  std::mt19937 random(2);
  for (int run = 0; run < 8; ++run) {
    const LatentForm& f = kForms[run / 2];
    const DType dtype = run % 2 == 0 ? DType::kF32 : DType::kBF16;
    const RopePairing pairing = run / 2 % 2 == 0 ? RopePairing::kAdjacent : RopePairing::kHalves;
    SCOPED_TRACE(::testing::Message() << f.tokens << " tokens, " << f.heads << " heads");
    const int64_t width = f.latent_dim + f.rope_dim;
    const int64_t head_dim = f.nope_dim + f.rope_dim;
    // Latent rows stand in wider ones.
    const int64_t row_width = width + 12;
    const Tensor rows = RandomTensor({f.tokens, row_width}, random, 2.0f);
    const Tensor q = RandomTensor({f.tokens, f.heads, head_dim}, random);
    const Tensor cos_sin = RandomTensor({f.tokens, 2, f.rope_dim / 2}, random);
    const Tensor norm = RandomTensor({f.latent_dim}, random);
    const Shape pool = {NumPages(f.tokens), kPageSize, width};
    const Tensor slots = Slots(f.tokens, pool[0] * kPageSize);
    Tensor empty = HostTensor(DType::kF32, pool);
    std::fill_n(empty.data<float>(), pool.NumElements(), 77.0f);
    const Tensor pages = Convert(empty, dtype);
    Guarded x(DType::kF32, rows.shape());
    Guarded queries(DType::kF32, q.shape());
    std::copy_n(rows.data<float>(), rows.shape().NumElements(), x.view().data<float>());
    std::copy_n(q.data<float>(), q.shape().NumElements(), queries.view().data<float>());
    const int64_t q_strides[] = {f.heads * head_dim, head_dim, 1};
    const TensorView q_rope(queries.view().data<float>() + f.nope_dim, DType::kF32,
                            {f.tokens, f.heads, f.rope_dim}, q_strides);
    const int64_t strides[] = {row_width, 1};
    const TensorView latent(x.view().data<float>() + 4, DType::kF32, {f.tokens, width}, strides);
    PrepareLatent({.num_heads = f.heads,
                   .latent_dim = f.latent_dim,
                   .rope_dim = f.rope_dim,
                   .norm_eps = kEps,
                   .pairing = pairing},
                  cos_sin, norm, slots, q_rope, latent, pages, context());
    x.ExpectGuardsIntact();
    queries.ExpectGuardsIntact();
    std::vector<double> want_q = ToDoubles(q);
    const std::vector<double> row_values = ToDoubles(rows);
    const Tensor got = Convert(pages, DType::kF32);
    int64_t untouched = pool.NumElements();
    for (int64_t t = 0; t < f.tokens; ++t) {
      const float* angles = cos_sin.data<float>() + t * f.rope_dim;
      for (int h = 0; h < f.heads; ++h) {
        double* head = want_q.data() + (t * f.heads + h) * head_dim;
        Rotate(head + f.nope_dim, pairing, angles, f.rope_dim / 2);
        for (int64_t d = 0; d < head_dim; ++d) {
          ExpectNear(queries.data<float>()[(t * f.heads + h) * head_dim + d], head[d], DType::kF32);
        }
      }
      const int64_t slot = slots.data<int64_t>()[t];
      if (slot < 0) continue;
      untouched -= width;
      const double* from = row_values.data() + t * row_width + 4;
      std::vector<double> want(from, from + width);
      Norm(want.data(), f.latent_dim, norm.data<float>());
      Rotate(want.data() + f.latent_dim, pairing, angles, f.rope_dim / 2);
      for (int64_t d = 0; d < width; ++d) {
        ExpectNear(got.data<float>()[slot * width + d], want[d], dtype);
      }
    }
    EXPECT_EQ(std::count(got.data<float>(), got.data<float>() + pool.NumElements(), 77.0f),
              untouched);
  }
}

SLUICE_INSTANTIATE_OP_TEST(PrepareQkvTest);

// What the CPU promises, and CUDA with batch_invariant: a row's bits do not depend on the others.
class PrepareQkvOrderTest : public OpTest {};

TEST_P(PrepareQkvOrderTest, BitsDoNotDependOnCompany) {
  std::mt19937 random(3);
  constexpr int64_t kTokens = 9;
  const Tensor qkv = RandomTensor({kTokens, 8 * 32}, random, 2.0f);
  const Tensor cos_sin = RandomTensor({kTokens, 2, 16}, random);
  const Tensor weight = RandomTensor({32}, random);
  const Shape pool = {NumPages(kTokens), 2, kPageSize, 32};
  const Tensor slots = Slots(kTokens, pool[0] * kPageSize);
  const PrepareQkvDesc desc{.num_heads = 4,
                            .num_kv_heads = 2,
                            .head_dim = 32,
                            .norm = QkNorm::kPerHead,
                            .norm_eps = kEps};
  Tensor whole = Convert(qkv, DType::kF32);
  const Tensor k = RandomTensor(pool, random);
  const Tensor v = RandomTensor(pool, random);
  const Tensor k_alone = Convert(k, DType::kF32);
  const Tensor v_alone = Convert(v, DType::kF32);
  PrepareQkv(desc, cos_sin, weight, weight, slots, whole, {k, v}, context());
  for (int64_t t = 0; t < kTokens; ++t) {
    Tensor alone = HostTensor(DType::kF32, {1, 8 * 32});
    std::copy_n(qkv.data<float>() + t * 256, 256, alone.data<float>());
    PrepareQkv(desc, cos_sin.view().Slice(t, t + 1), weight, weight, slots.view().Slice(t, t + 1),
               alone, {k_alone, v_alone}, context());
    ExpectSameBits(alone.data<float>(), whole.data<float>() + t * 256, 128);
  }
  ExpectSameBits(k.data<float>(), k_alone.data<float>(), pool.NumElements());
  ExpectSameBits(v.data<float>(), v_alone.data<float>(), pool.NumElements());
}

SLUICE_INSTANTIATE_INVARIANT_OP_TEST(PrepareQkvOrderTest);

}  // namespace
}  // namespace sluice::ops
