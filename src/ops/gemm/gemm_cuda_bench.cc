#include "ops/common/cuda_bench.h"
#include "ops/gemm/gemm.h"
#include "ops/gemm/norm_gemm.h"
#include "ops/norm/norm.h"

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
  // Of a latent attention 7,168 wide: out of the query's low rank, and back to the hidden state.
  bench->Args({1, 24'576, 1536})->Args({1, 7168, 16'384});
}

// A dense part of a decode step, in which each kernel reads what the one before wrote: M rows of
// x, K wide, are normed and go through N columns, whose first D go back to x. With fused = 0 the
// norm is a kernel of its own.
void BM_NormGemmChainCuda(benchmark::State& state, CudaBench& bench, DType dtype) {
  const int64_t rows = state.range(0);
  const int64_t columns = state.range(1);
  const int64_t depth = state.range(2);
  const int64_t back = state.range(3);
  const bool fused = state.range(4) == 1;
  const auto bytes =
      static_cast<double>((columns * depth + back * depth) * static_cast<int64_t>(SizeOf(dtype)));
  const int64_t copies = bench.Copies(static_cast<int64_t>(bytes));
  const Tensor x = bench.Floats(DType::kF32, {rows, depth});
  const Tensor norm_weight = bench.Floats(DType::kF32, {depth});
  const Tensor w = bench.Floats(dtype, {copies, columns, depth});
  const Tensor w_back = bench.Floats(dtype, {copies, depth, back});
  const Tensor normed(dtype, {rows, depth}, MemoryKind::kCuda);
  const Tensor out(DType::kF32, {rows, columns}, MemoryKind::kCuda);
  const int64_t strides[] = {columns, 1};
  const ConstTensorView to_go_back(out.data<float>(), DType::kF32, {rows, back}, strides);
  const NormDesc norm{.eps = 1e-6f};
  const BenchWork work{.bytes = bytes,
                       .operations = 2.0 * static_cast<double>(rows * depth * (columns + back))};
  bench.Measure(state, work, copies, [&](int64_t i) {
    if (fused) {
      NormGemm({.norm = norm}, x, norm_weight, w.view()[i % copies], {}, out, bench.context());
    } else {
      Norm(norm, x, norm_weight, normed, bench.context());
      Gemm({}, normed, w.view()[i % copies], {}, out, bench.context());
    }
    if (back > 0) {
      Gemm({.accumulate = true}, to_go_back, w_back.view()[i % copies], {}, x, bench.context());
    }
  });
}

void Chains(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"M", "N", "K", "D", "fused"});
  for (const int64_t fused : {0, 1}) {
    for (const int64_t rows : {1, 2, 4, 8}) {
      bench->Args({rows, 5120, 2048, 4096, fused});
      bench->Args({rows, 6144, 2048, 2048, fused});
    }
    bench->Args({1, 2112, 7168, 2112, fused});
    bench->Args({1, 24'576, 1536, 1536, fused});
    bench->Args({1, 151'936, 2048, 0, fused})->Args({8, 151'936, 2048, 0, fused});
  }
}

const bool kChainsRegistered = RegisterCudaBench(
    "BM_NormGemmChainCuda/bf16",
    [](benchmark::State& state, CudaBench& bench) {
      BM_NormGemmChainCuda(state, bench, DType::kBF16);
    },
    Chains);

const bool kRegistered = RegisterCudaBench(
    "BM_GemmCuda/bf16",
    [](benchmark::State& state, CudaBench& bench) { BM_GemmCuda(state, bench, DType::kBF16); },
    Shapes);

}  // namespace
}  // namespace sluice::ops
