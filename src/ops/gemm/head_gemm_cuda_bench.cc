#include "ops/common/cuda_bench.h"
#include "ops/gemm/head_gemm.h"

namespace sluice::ops {
namespace {

// Tokens, then N and K of 128 heads: the two products around latent attention.
void BM_HeadGemmCuda(benchmark::State& state, CudaBench& bench) {
  constexpr int64_t kHeads = 128;
  const int64_t tokens = state.range(0);
  const int64_t columns = state.range(1);
  const int64_t depth = state.range(2);
  const int64_t bytes = kHeads * columns * depth * static_cast<int64_t>(SizeOf(DType::kBF16));
  const int64_t copies = bench.Copies(bytes);
  const Tensor x = bench.Floats(DType::kF32, {tokens, kHeads, depth});
  const Tensor w = bench.Floats(DType::kBF16, {copies * kHeads, columns, depth});
  const Tensor out(DType::kF32, {tokens, kHeads, columns}, MemoryKind::kCuda);
  const BenchWork work{
      .bytes = static_cast<double>(bytes + x.view().NumBytes() + out.view().NumBytes()),
      .operations = 2.0 * static_cast<double>(tokens * kHeads * columns * depth)};
  bench.Measure(state, work, copies, [&](int64_t i) {
    const int64_t first = i % copies * kHeads;
    HeadGemm(x, w.view().Slice(first, first + kHeads), out, bench.context());
  });
}

[[maybe_unused]] const bool kRegistered = RegisterCudaBench(
    "BM_HeadGemmCuda", &BM_HeadGemmCuda, [](benchmark::internal::Benchmark* bench) {
      bench->ArgNames({"T", "N", "K"});
      for (const int64_t tokens : {1, 8, 64, 512}) {
        bench->Args({tokens, 512, 128})->Args({tokens, 128, 512});
      }
    });

}  // namespace
}  // namespace sluice::ops
