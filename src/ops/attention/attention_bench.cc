#include <benchmark/benchmark.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "ops/attention/attention.h"
#include "ops/common/bench_support.h"

namespace sluice::ops {
namespace {

// The last `queries` rows of a causal sequence of `kv_length` positions; 32 heads over 4 KV heads
// of 128, pages of 16.
void BM_Attention(benchmark::State& state, DType dtype) {
  constexpr int64_t kPageSize = 16;
  BenchRunner runner;
  const int queries = static_cast<int>(state.range(0));
  const int kv_length = static_cast<int>(state.range(1));
  const AttentionDesc desc{
      .num_heads = 32, .num_kv_heads = 4, .head_dim = 128, .scale = 1.0f / std::sqrt(128.0f)};
  const int64_t count = (kv_length + kPageSize - 1) / kPageSize;
  const Tensor k = BenchTensor(dtype, {count, desc.num_kv_heads, kPageSize, desc.head_dim});
  const Tensor v = BenchTensor(dtype, {count, desc.num_kv_heads, kPageSize, desc.head_dim});
  const Tensor q = BenchTensor(DType::kF32, {queries, desc.num_heads, desc.head_dim});
  Tensor out(DType::kF32, {queries, desc.num_heads, desc.head_dim});
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
    Attention(desc, q, batch, {k, v}, out, runner.context());
  }
  // Pairs of a query row and a position that it sees; each costs two products of head_dim.
  const double pairs = queries * (kv_length - (queries - 1) / 2.0);
  using benchmark::Counter;
  state.counters["B/s"] =
      Counter(2.0 * static_cast<double>(k.view().NumBytes()), Counter::kIsIterationInvariantRate);
  state.counters["FLOP/s"] =
      Counter(4.0 * pairs * desc.num_heads * desc.head_dim, Counter::kIsIterationInvariantRate);
}

void Shapes(benchmark::internal::Benchmark* bench) {
  bench->UseRealTime()->ArgNames({"queries", "kv"})->Args({1, 32'768})->Args({512, 2'048});
}

BENCHMARK_CAPTURE(BM_Attention, f32, DType::kF32)->Apply(Shapes);
BENCHMARK_CAPTURE(BM_Attention, bf16, DType::kBF16)->Apply(Shapes);

}  // namespace
}  // namespace sluice::ops
