#include "ops/common/cuda_bench.h"
#include "ops/gemm/gemm.h"

namespace sluice::ops {
namespace {

// Rows of x, then N and K: a layer's widest projection, a square one and a head, at the widths of a
// 30B model of experts. Inputs are in the weights' dtype.
void BM_GemmCuda(benchmark::State& state, CudaBench& bench, DType dtype) {
  const int64_t rows = state.range(0);
  const int64_t columns = state.range(1);
  const int64_t depth = state.range(2);
  const auto bytes = static_cast<double>(columns * depth * static_cast<int64_t>(SizeOf(dtype)));
  const int64_t copies = bench.Copies(static_cast<int64_t>(bytes));
  const Tensor x = bench.Floats(dtype, {rows, depth});
  const Tensor w = bench.Floats(dtype, {copies, columns, depth});
  const Tensor out(DType::kF32, {rows, columns}, MemoryKind::kCuda);
  const BenchWork work{
      .bytes = bytes + static_cast<double>(x.view().NumBytes() + out.view().NumBytes()),
      .operations = 2.0 * static_cast<double>(rows * columns * depth)};
  bench.Measure(state, work, copies,
                [&](int64_t i) { Gemm({}, x, w.view()[i % copies], {}, out, bench.context()); });
}

void Shapes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"M", "N", "K"});
  for (const int64_t rows : {1, 8, 16, 32, 64, 512, 2048}) {
    bench->Args({rows, 5120, 2048})->Args({rows, 2048, 4096});
    if (rows <= 64) bench->Args({rows, 151'936, 2048})->Args({rows, 128, 2048});
  }
}

const bool kRegistered = RegisterCudaBench(
    "BM_GemmCuda/bf16",
    [](benchmark::State& state, CudaBench& bench) { BM_GemmCuda(state, bench, DType::kBF16); },
    Shapes);

}  // namespace
}  // namespace sluice::ops
