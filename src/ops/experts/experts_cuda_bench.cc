#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "ops/common/cuda_bench.h"
#include "ops/experts/experts.h"
#include "ops/router/router.h"

namespace sluice::ops {
namespace {

// A layer's experts.
struct LayerShape {
  int experts;
  int top_k;
  int64_t hidden;
  int64_t width;
  int64_t shared_width = 0;
  bool shared_gate = false;
};

enum class Load { kUniform, kZipf, kOneTakesMost };

// Every call of a round has logits of its own, so that it reads other experts than the one before.
constexpr int64_t kRound = 8;

// [kRound, tokens, experts]: independent values, to which a popularity of experts is added.
Tensor RandomLogits(const LayerShape& shape, int64_t tokens, Load load) {
  Tensor logits(DType::kF32, {kRound, tokens, shape.experts});
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(1e-6f, 1.0f);
  std::vector<int> rank(shape.experts);
  std::iota(rank.begin(), rank.end(), 0);
  float* value = logits.data<float>();
  for (int64_t i = 0; i < kRound; ++i) {
    std::shuffle(rank.begin(), rank.end(), random);
    for (int64_t j = 0; j < tokens * shape.experts; ++j) {
      const int of = rank[j % shape.experts];
      // The largest of these "Gumbel" values are a draw in proportion to exp(popularity).
      const float gumbel = -std::log(-std::log(uniform(random)));
      float popularity = 0.0f;
      if (load == Load::kZipf) popularity = -std::log(static_cast<float>(of + 1));
      if (load == Load::kOneTakesMost) popularity = of < shape.top_k ? 8.0f : 0.0f;
      *value++ = gumbel + popularity;
    }
  }
  return logits;
}

// Experts that a call reads, on average over a round.
double DistinctExperts(const LayerShape& shape, const Tensor& logits, int64_t tokens) {
  int64_t distinct = 0;
  std::vector<int> order(shape.experts);
  for (int64_t i = 0; i < kRound; ++i) {
    std::vector<bool> seen(shape.experts, false);
    for (int64_t t = 0; t < tokens; ++t) {
      const float* row = logits.data<float>() + (i * tokens + t) * shape.experts;
      std::iota(order.begin(), order.end(), 0);
      std::partial_sort(order.begin(), order.begin() + shape.top_k, order.end(),
                        [&](int a, int b) { return row[a] > row[b]; });
      for (int j = 0; j < shape.top_k; ++j) seen[order[j]] = true;
    }
    distinct += std::count(seen.begin(), seen.end(), true);
  }
  return static_cast<double>(distinct) / kRound;
}

// From the router's logits to the tokens' combined output.
void BM_ExpertsCuda(benchmark::State& state, CudaBench& bench, const LayerShape& shape, Load load) {
  const int64_t tokens = state.range(0);
  const int64_t matrix = shape.width * shape.hidden * static_cast<int64_t>(sizeof(Bf16));
  const Tensor slab = bench.Floats(DType::kBF16, {shape.experts, 3 * shape.width, shape.hidden});
  const Tensor shared_gate_up =
      bench.Floats(DType::kBF16, {kRound, 2 * shape.shared_width, shape.hidden});
  const Tensor shared_down = bench.Floats(DType::kBF16, {kRound, shape.hidden, shape.shared_width});
  const Tensor shared_gate = bench.Floats(DType::kBF16, {1, shape.hidden});
  const Tensor host_logits = RandomLogits(shape, tokens, load);
  const Tensor logits = bench.Upload(host_logits);
  Tensor slots(DType::kI32, {shape.experts});
  std::iota(slots.data<int32_t>(), slots.data<int32_t>() + shape.experts, 0);
  const Tensor device_slots = bench.Upload(slots);
  const Tensor x = bench.Floats(DType::kBF16, {tokens, shape.hidden});
  const Tensor out = bench.Floats(DType::kF32, {tokens, shape.hidden});
  const ExpertMatrix gate_up{.slab = static_cast<const std::byte*>(slab.view().raw()),
                             .slot_stride = 3 * matrix,
                             .offset = 0,
                             .dtype = DType::kBF16,
                             .rows = 2 * shape.width,
                             .cols = shape.hidden};
  ExpertMatrix down = gate_up;
  down.offset = 2 * matrix;
  down.rows = shape.hidden;
  down.cols = shape.width;

  OpContext& context = bench.context();
  const auto call = [&](int64_t i) {
    Arena::Scope scope(context.arena);
    const TensorView weights = context.arena.Allocate(DType::kF32, {tokens, shape.top_k});
    const TensorView ids = context.arena.Allocate(DType::kI32, {tokens, shape.top_k});
    SharedExpert shared;
    if (shape.shared_width > 0) {
      shared = {.gate_up = shared_gate_up.view()[i % kRound],
                .down = shared_down.view()[i % kRound],
                .gate = shape.shared_gate ? shared_gate.view() : ConstTensorView()};
    }
    Router({.num_experts = shape.experts, .top_k = shape.top_k}, logits.view()[i % kRound], {},
           weights, ids, {}, context);
    Experts(x, ids, weights, device_slots, gate_up, down, shared, out, context);
  };
  const double distinct = DistinctExperts(shape, host_logits, tokens);
  state.counters["experts"] = distinct;
  const double expert = 3.0 * static_cast<double>(matrix);
  const auto shared = static_cast<double>(shape.shared_width) / static_cast<double>(shape.width);
  bench.Measure(state,
                {.bytes = (distinct + shared) * expert +
                          static_cast<double>(x.view().NumBytes() + 2 * out.view().NumBytes()),
                 .operations = static_cast<double>(tokens) * (shape.top_k + shared) * expert},
                kRound, call);
}

bool Register(const char* name, const LayerShape& shape, Load load,
              void (*apply)(benchmark::internal::Benchmark*)) {
  return RegisterCudaBench(
      name,
      [=](benchmark::State& state, CudaBench& bench) { BM_ExpertsCuda(state, bench, shape, load); },
      apply);
}

void Tokens(benchmark::internal::Benchmark* bench) {
  for (const int64_t tokens : {1, 2, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 8192})
    bench->Arg(tokens);
}
void FewTokens(benchmark::internal::Benchmark* bench) {
  for (const int64_t tokens : {1, 8, 64, 128, 2048}) bench->Arg(tokens);
}

constexpr LayerShape kWide{.experts = 128, .top_k = 8, .hidden = 2048, .width = 768};
constexpr LayerShape kMiddle{.experts = 60,
                             .top_k = 4,
                             .hidden = 2048,
                             .width = 1408,
                             .shared_width = 5632,
                             .shared_gate = true};
constexpr LayerShape kDeep{
    .experts = 256, .top_k = 8, .hidden = 7168, .width = 2048, .shared_width = 2048};
constexpr LayerShape kLarge{.experts = 8, .top_k = 2, .hidden = 4096, .width = 14'336};

const bool kRegistered[] = {
    Register("BM_ExpertsCuda/128x768", kWide, Load::kUniform, Tokens),
    Register("BM_ExpertsCuda/128x768/zipf", kWide, Load::kZipf, FewTokens),
    Register("BM_ExpertsCuda/128x768/one", kWide, Load::kOneTakesMost, FewTokens),
    Register("BM_ExpertsCuda/60x1408+5632", kMiddle, Load::kUniform, Tokens),
    Register("BM_ExpertsCuda/256x2048+2048", kDeep, Load::kUniform, FewTokens),
    Register("BM_ExpertsCuda/8x14336", kLarge, Load::kUniform, Tokens)};

}  // namespace
}  // namespace sluice::ops
