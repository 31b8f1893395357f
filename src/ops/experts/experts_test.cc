#include "ops/experts/experts.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "ops/common/test_support.h"

namespace sluice::ops {
namespace {

enum class Spread { kEven, kSameForAll, kZipf };

struct Case {
  int experts;
  int tokens;
  int top_k;
  int64_t hidden;
  int64_t ffn;
  int64_t shared_ffn = 0;
  bool shared_gate = false;
  Spread spread = Spread::kEven;
};

constexpr Case kCases[] = {
    {8, 0, 2, 16, 32},
    {8, 1, 2, 32, 96},
    {8, 1, 8, 2056, 8, 16, true},
    {16, 2, 4, 1600, 16},
    {4, 2, 1, 2120, 24, 16},
    {60, 7, 4, 64, 72, 136, true},
    {60, 8, 4, 72, 24, 64, false},
    {64, 9, 8, 48, 64},
    {64, 17, 2, 40, 88, 32, true, Spread::kSameForAll},
    {128, 33, 8, 24, 48, 24, true, Spread::kZipf},
    {256, 64, 8, 32, 24, 72, true},
    {16, 40, 4, 1088, 8, 0, false, Spread::kSameForAll},
    {128, 65, 8, 24, 24, 16, true},
    {8, 200, 2, 24, 40, 32, true},
    // Widths that no wide load fits.
    {8, 5, 2, 33, 21, 27, true},
};

// A layer's weights: experts' matrices in slots of a slab, in shuffled order, behind a header.
struct Layer {
  Layer(const Case& c, DType dtype, std::mt19937& random)
      : gate_up(Convert(RandomTensor({c.experts, 2 * c.ffn, c.hidden}, random), dtype)),
        down(Convert(RandomTensor({c.experts, c.hidden, c.ffn}, random), dtype)),
        shared_gate_up(Convert(RandomTensor({2 * c.shared_ffn, c.hidden}, random), dtype)),
        shared_down(Convert(RandomTensor({c.hidden, c.shared_ffn}, random), dtype)),
        shared_gate(Convert(RandomTensor({1, c.hidden}, random, 0.1f), dtype)),
        slots(HostTensor(DType::kI32, {c.experts})) {
    const auto size = static_cast<int64_t>(SizeOf(dtype));
    const int64_t gate_up_bytes = 2 * c.ffn * c.hidden * size;
    const int64_t down_bytes = c.ffn * c.hidden * size;
    const int64_t down_at = kHeader + (gate_up_bytes + 63) / 64 * 64;
    const int64_t stride = down_at + (down_bytes + 63) / 64 * 64;
    slab = HostTensor(DType::kU8, {c.experts * stride});
    std::iota(slots.data<int32_t>(), slots.data<int32_t>() + c.experts, 0);
    std::shuffle(slots.data<int32_t>(), slots.data<int32_t>() + c.experts, random);
    for (int e = 0; e < c.experts; ++e) {
      uint8_t* slot = slab.data<uint8_t>() + slots.data<int32_t>()[e] * stride;
      const auto* from = static_cast<const std::byte*>(gate_up.view().raw());
      std::memcpy(slot + kHeader, from + e * gate_up_bytes, gate_up_bytes);
      from = static_cast<const std::byte*>(down.view().raw());
      std::memcpy(slot + down_at, from + e * down_bytes, down_bytes);
    }
    gate_up_matrix = {.slab = static_cast<const std::byte*>(slab.view().raw()),
                      .slot_stride = stride,
                      .offset = kHeader,
                      .dtype = dtype,
                      .rows = 2 * c.ffn,
                      .cols = c.hidden};
    down_matrix = gate_up_matrix;
    down_matrix.offset = down_at;
    down_matrix.rows = c.hidden;
    down_matrix.cols = c.ffn;
    if (c.shared_ffn > 0) shared = {.gate_up = shared_gate_up, .down = shared_down, .gate = {}};
    if (c.shared_gate) shared.gate = shared_gate;
  }

  static constexpr int64_t kHeader = 64;
  Tensor gate_up, down, shared_gate_up, shared_down, shared_gate, slots, slab;
  ExpertMatrix gate_up_matrix;
  ExpertMatrix down_matrix;
  SharedExpert shared;
};

// Tokens and where they go.
struct Tokens {
  Tokens(const Case& c, DType dtype, std::mt19937& random)
      : x(Convert(RandomTensor({c.tokens, c.hidden}, random), dtype)),
        ids(HostTensor(DType::kI32, {c.tokens, c.top_k})),
        weights(RandomTensor({c.tokens, c.top_k}, random)),
        before(RandomTensor({c.tokens, c.hidden}, random)) {
    std::vector<int32_t> order(c.experts);
    for (int t = 0; t < c.tokens; ++t) {
      std::iota(order.begin(), order.end(), 0);
      if (c.spread == Spread::kEven) std::shuffle(order.begin(), order.end(), random);
      if (c.spread == Spread::kZipf) {
        std::vector<double> key(c.experts);
        for (int e = 0; e < c.experts; ++e) {
          key[e] = std::log((static_cast<double>(random() % 65'536) + 1) / 65'537) * (e + 1);
        }
        std::sort(order.begin(), order.end(), [&](int a, int b) { return key[a] > key[b]; });
      }
      std::copy_n(order.begin(), c.top_k, ids.data<int32_t>() + t * c.top_k);
    }
  }
  Tensor x, ids, weights, before;
};

// One expert's output for one token, and the sum of its terms' magnitudes.
struct Sums {
  std::vector<double> value;
  std::vector<double> magnitude;
};

Sums RunExpert(const double* gate_up, const double* down, const double* x, int64_t hidden,
               int64_t ffn) {
  const auto dot = [&](const double* w) { return std::inner_product(w, w + hidden, x, 0.0); };
  std::vector<double> inner(ffn);
  for (int64_t f = 0; f < ffn; ++f) {
    const double gate = dot(gate_up + f * hidden);
    inner[f] = gate / (1.0 + std::exp(-gate)) * dot(gate_up + (ffn + f) * hidden);
  }
  Sums sums{std::vector<double>(hidden, 0.0), std::vector<double>(hidden, 0.0)};
  for (int64_t h = 0; h < hidden; ++h) {
    for (int64_t f = 0; f < ffn; ++f) {
      sums.value[h] += down[h * ffn + f] * inner[f];
      sums.magnitude[h] += std::abs(down[h * ffn + f] * inner[f]);
    }
  }
  return sums;
}

// What Experts gives in double precision, and the scale of its error.
Sums Expected(const Case& c, const Layer& layer, const Tokens& tokens) {
  Sums want{ToDoubles(tokens.before), std::vector<double>(c.tokens * c.hidden, 1.0)};
  const std::vector<double> gate_up = ToDoubles(layer.gate_up);
  const std::vector<double> down = ToDoubles(layer.down);
  const std::vector<double> shared_gate_up = ToDoubles(layer.shared_gate_up);
  const std::vector<double> shared_down = ToDoubles(layer.shared_down);
  const std::vector<double> shared_gate = ToDoubles(layer.shared_gate);
  const std::vector<double> x = ToDoubles(tokens.x);
  for (int t = 0; t < c.tokens; ++t) {
    const double* row = x.data() + t * c.hidden;
    const auto add = [&](const Sums& sums, double weight) {
      for (int64_t h = 0; h < c.hidden; ++h) {
        want.value[t * c.hidden + h] += weight * sums.value[h];
        want.magnitude[t * c.hidden + h] += std::abs(weight) * sums.magnitude[h];
      }
    };
    for (int j = 0; j < c.top_k; ++j) {
      const int64_t e = tokens.ids.data<int32_t>()[t * c.top_k + j];
      add(RunExpert(gate_up.data() + e * 2 * c.ffn * c.hidden, down.data() + e * c.ffn * c.hidden,
                    row, c.hidden, c.ffn),
          tokens.weights.data<float>()[t * c.top_k + j]);
    }
    if (c.shared_ffn == 0) continue;
    double weight = 1.0;
    if (c.shared_gate) {
      weight =
          1.0 / (1.0 + std::exp(-std::inner_product(row, row + c.hidden, shared_gate.data(), 0.0)));
    }
    add(RunExpert(shared_gate_up.data(), shared_down.data(), row, c.hidden, c.shared_ffn), weight);
  }
  return want;
}

class ExpertsTest : public OpTest {
 protected:
  void Run(const Layer& layer, const Tokens& tokens, const Guarded& out) {
    std::copy_n(tokens.before.data<float>(), tokens.before.view().NumElements(),
                out.view().data<float>());
    Experts(tokens.x, tokens.ids, tokens.weights, layer.slots, layer.gate_up_matrix,
            layer.down_matrix, layer.shared, out, context());
  }

  void Check(const Case& c, DType dtype, DType x_dtype) {
    SCOPED_TRACE(::testing::Message() << dtype << " x " << x_dtype << " experts " << c.experts
                                      << " tokens " << c.tokens << " hidden " << c.hidden);
    std::mt19937 random(static_cast<uint32_t>(c.experts + c.tokens));
    const Layer layer(c, dtype, random);
    const Tokens tokens(c, x_dtype, random);
    Guarded out(DType::kF32, {c.tokens, c.hidden});
    Run(layer, tokens, out);
    const Sums want = Expected(c, layer, tokens);
    // On CUDA inner values are rounded to the weights' dtype, and f32 inputs of tensor cores too.
    const bool rounds = GetParam().cuda && dtype != DType::kF32;
    ExpectClose(out, want.value, want.magnitude, rounds ? 1.0 / 200 : 2e-5);
    out.ExpectGuardsIntact();
    // The order of sums is fixed: the same call gives the same bits.
    Guarded again(DType::kF32, {c.tokens, c.hidden});
    Run(layer, tokens, again);
    ExpectSameBits(out.data<float>(), again.data<float>(), c.tokens * c.hidden);
  }
};

TEST_P(ExpertsTest, MatchesDoublePrecision) {
  for (const Case& c : kCases) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      Check(c, dtype, DType::kF32);
      if (GetParam().cuda && dtype != DType::kF32) Check(c, dtype, dtype);
    }
  }
}

// What the CPU promises, and CUDA with batch_invariant: a token's bits do not depend on the others.
using ExpertsOrderTest = ExpertsTest;

TEST_P(ExpertsOrderTest, ATokenHasTheSameBitsAloneAndInCompany) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Case c{16, 200, 3, 72, 40, 24, true};
    std::mt19937 random(3);
    const Layer layer(c, dtype, random);
    const Tokens all(c, context().ProductDType(dtype), random);
    Guarded together(DType::kF32, {c.tokens, c.hidden});
    Run(layer, all, together);
    for (const int count : {1, 4, 40, 100}) {
      for (int begin = 0; begin + count <= c.tokens; begin += 33) {
        Guarded part(DType::kF32, {count, c.hidden});
        std::copy_n(all.before.data<float>() + begin * c.hidden, count * c.hidden,
                    part.view().data<float>());
        const auto rows = [&](const Tensor& tensor) {
          return tensor.view().Slice(begin, begin + count);
        };
        Experts(rows(all.x), rows(all.ids), rows(all.weights), layer.slots, layer.gate_up_matrix,
                layer.down_matrix, layer.shared, part, context());
        ExpectSameBits(part.data<float>(), together.data<float>() + begin * c.hidden,
                       count * c.hidden);
      }
    }
  }
}

SLUICE_INSTANTIATE_OP_TEST(ExpertsTest);
SLUICE_INSTANTIATE_INVARIANT_OP_TEST(ExpertsOrderTest);

}  // namespace
}  // namespace sluice::ops
