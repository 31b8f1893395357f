#include <benchmark/benchmark.h>

#include <numeric>

#include "ops/common/bench_support.h"
#include "ops/grouped_gemm/grouped_gemm.h"

namespace sluice::ops {
namespace {

// 128 experts, 8 a token, width 2048 to 768, as Qwen3-30B-A3B: the gate and up product.
void BM_GroupedSwiGlu(benchmark::State& state, DType dtype) {
  constexpr int64_t kExperts = 128;
  constexpr int64_t kTopK = 8;
  constexpr int64_t kHidden = 2048;
  constexpr int64_t kWidth = 768;
  BenchRunner runner;
  const int64_t tokens = state.range(0);
  const Tensor slab = BenchTensor(dtype, {kExperts, 2 * kWidth, kHidden});
  const int64_t matrix_bytes = 2 * kWidth * kHidden * static_cast<int64_t>(SizeOf(dtype));
  const ExpertMatrix matrix{.slab = static_cast<const std::byte*>(slab.view().raw()),
                            .slot_stride = matrix_bytes,
                            .offset = 0,
                            .dtype = dtype,
                            .rows = 2 * kWidth,
                            .cols = kHidden};
  const Tensor x = BenchTensor(DType::kF32, {tokens, kHidden});
  Tensor out(DType::kF32, {tokens * kTopK, kWidth});
  const Tensor slots(DType::kI32, {kExperts});
  std::iota(slots.data<int32_t>(), slots.data<int32_t>() + kExperts, 0);
  const Tensor gather(DType::kI32, {tokens * kTopK});
  const Tensor offsets(DType::kI32, {kExperts + 1});
  int32_t* const row_token = gather.data<int32_t>();
  int32_t* const row_end = offsets.data<int32_t>() + 1;
  row_end[-1] = 0;
  uint32_t first = 0;  // rotates, so that one token's experts come from memory each time
  int64_t active = 0;
  for (auto _ : state) {
    active = 0;
    for (int64_t e = 0, row = 0; e < kExperts; ++e) {
      for (int64_t t = 0; t < tokens; ++t) {
        if ((e + kExperts - (first + t * kTopK) % kExperts) % kExperts < kTopK) {
          row_token[row++] = static_cast<int32_t>(t);
        }
      }
      row_end[e] = static_cast<int32_t>(row);
      active += row_end[e] > row_end[e - 1] ? 1 : 0;
    }
    first += kTopK;
    GroupedGemm({GroupedEpilogue::kSwiGlu}, x, gather, offsets, slots, matrix, {}, out,
                runner.context());
  }
  using benchmark::Counter;
  state.counters["B/s"] =
      Counter(static_cast<double>(active * matrix_bytes), Counter::kIsIterationInvariantRate);
  state.counters["FLOP/s"] =
      Counter(2.0 * static_cast<double>(tokens * kTopK * 2 * kWidth * kHidden),
              Counter::kIsIterationInvariantRate);
}

BENCHMARK_CAPTURE(BM_GroupedSwiGlu, f32, DType::kF32)->Arg(1)->Arg(16)->Arg(512)->UseRealTime();
BENCHMARK_CAPTURE(BM_GroupedSwiGlu, bf16, DType::kBF16)->Arg(1)->Arg(16)->Arg(512)->UseRealTime();

}  // namespace
}  // namespace sluice::ops
