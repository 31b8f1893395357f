#include <benchmark/benchmark.h>

#include <algorithm>

#include "ops/common/bench_support.h"
#include "ops/gemm/gemm.h"

namespace sluice::ops {
namespace {

// The floor of every row of one token: plain reads of as many bytes by all cores.
void BM_PlainRead(benchmark::State& state) {
  BenchRunner runner;
  const Tensor values = BenchTensor(DType::kF32, {state.range(0), 1 << 18});
  Buffer buffer(static_cast<size_t>(values.view().NumBytes()));
  std::copy_n(reinterpret_cast<const std::byte*>(values.data<float>()), buffer.size(),
              buffer.data());
  for (auto _ : state) benchmark::DoNotOptimize(ReadAll(buffer, runner.context().pool));
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(buffer.size()));
}

// Rows of x, then N and K. Weights are cycled through enough copies to leave the caches.
void BM_Gemm(benchmark::State& state, DType dtype) {
  BenchRunner runner;
  const int64_t rows = state.range(0);
  const int64_t columns = state.range(1);
  const int64_t depth = state.range(2);
  const int64_t copies = rows < 16 ? (int64_t{1} << 30) / (columns * depth * 4) : 1;
  const Tensor x = BenchTensor(DType::kF32, {rows, depth});
  const Tensor w = BenchTensor(dtype, {copies, columns, depth});
  Tensor out(DType::kF32, {rows, columns});
  int64_t copy = 0;
  for (auto _ : state) {
    Gemm({}, x, w.view()[copy], {}, out, runner.context());
    copy = (copy + 1) % copies;
  }
  const double weight_bytes = static_cast<double>(columns * depth) * SizeOf(dtype);
  using benchmark::Counter;
  state.counters["B/s"] = Counter(weight_bytes, Counter::kIsIterationInvariantRate);
  state.counters["FLOP/s"] = Counter(2.0 * static_cast<double>(rows * columns * depth),
                                     Counter::kIsIterationInvariantRate);
}

void Shapes(benchmark::internal::Benchmark* bench) {
  bench->UseRealTime()->ArgNames({"M", "N", "K"});
  for (const int64_t rows : {1, 2, 4, 16, 64, 512}) bench->Args({rows, 4096, 2048});
}

BENCHMARK(BM_PlainRead)->Arg(512)->UseRealTime();
BENCHMARK_CAPTURE(BM_Gemm, f32, DType::kF32)->Apply(Shapes);
BENCHMARK_CAPTURE(BM_Gemm, bf16, DType::kBF16)->Apply(Shapes);

}  // namespace
}  // namespace sluice::ops
