#include <benchmark/benchmark.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "ops/attention/latent_attention.h"
#include "ops/common/bench_support.h"
#include "ops/gemm/gemm.h"

namespace sluice::ops {
namespace {

constexpr int kHeads = 128;
constexpr int kLatentDim = 512;
constexpr int kRopeDim = 64;

// The floor: all heads share a position's row, so that arithmetic and not memory bounds the op (242
// products a byte in bf16). As many products a second as Gemm makes of what lies in the caches.
void BM_LatentAttentionFloor(benchmark::State& state) {
  constexpr int64_t kColumns = 256;
  constexpr int64_t kDepth = kLatentDim + kRopeDim;
  BenchRunner runner;
  const Tensor x = BenchTensor(DType::kF32, {kHeads, kDepth});
  const Tensor w = BenchTensor(DType::kF32, {kColumns, kDepth});
  Tensor out(DType::kF32, {kHeads, kColumns});
  for (auto _ : state) Gemm({}, x, w, {}, out, runner.context());
  state.counters["FLOP/s"] = benchmark::Counter(2.0 * kHeads * kColumns * kDepth,
                                                benchmark::Counter::kIsIterationInvariantRate);
}

// The last `queries` rows of a causal sequence of `kv_length` positions, pages of 16.
void BM_LatentAttention(benchmark::State& state, DType dtype) {
  constexpr int64_t kPageSize = 16;
  BenchRunner runner;
  const int queries = static_cast<int>(state.range(0));
  const int kv_length = static_cast<int>(state.range(1));
  const LatentAttentionDesc desc{
      .num_heads = 128, .latent_dim = 512, .rope_dim = 64, .scale = 1.0f / std::sqrt(192.0f)};
  const int64_t width = desc.latent_dim + desc.rope_dim;
  const int64_t count = (kv_length + kPageSize - 1) / kPageSize;
  const Tensor latent = BenchTensor(dtype, {count, kPageSize, width});
  const Tensor q_latent = BenchTensor(DType::kF32, {queries, desc.num_heads, desc.latent_dim});
  const Tensor q_rope = BenchTensor(DType::kF32, {queries, desc.num_heads, desc.rope_dim});
  Tensor out(DType::kF32, {queries, desc.num_heads, desc.latent_dim});
  std::vector<int32_t> pages(count);
  std::iota(pages.begin(), pages.end(), 0);
  std::vector<int32_t> positions(queries);
  std::iota(positions.begin(), positions.end(), kv_length - queries);
  const AttentionSequence sequence{.query_begin = 0,
                                   .query_count = queries,
                                   .positions = positions,
                                   .pages = pages,
                                   .kv_length = kv_length,
                                   .mask = AttentionMask::kCausal};
  const AttentionBatch batch = PlaceSequences(std::span(&sequence, 1), runner.context());
  for (auto _ : state) {
    LatentAttention(desc, q_latent, q_rope, batch, latent, out, runner.context());
  }
  // Pairs of a query row and a position that it sees: a product of the whole row, one of the
  // latent.
  const double pairs = queries * (kv_length - (queries - 1) / 2.0);
  using benchmark::Counter;
  state.counters["B/s"] =
      Counter(static_cast<double>(latent.view().NumBytes()), Counter::kIsIterationInvariantRate);
  state.counters["FLOP/s"] =
      Counter(2.0 * pairs * desc.num_heads * static_cast<double>(width + desc.latent_dim),
              Counter::kIsIterationInvariantRate);
}

void Shapes(benchmark::internal::Benchmark* bench) {
  bench->UseRealTime()->ArgNames({"queries", "kv"})->Args({1, 8'192})->Args({64, 1'024});
}

BENCHMARK(BM_LatentAttentionFloor)->UseRealTime();
BENCHMARK_CAPTURE(BM_LatentAttention, f32, DType::kF32)->Apply(Shapes);
BENCHMARK_CAPTURE(BM_LatentAttention, bf16, DType::kBF16)->Apply(Shapes);

}  // namespace
}  // namespace sluice::ops
