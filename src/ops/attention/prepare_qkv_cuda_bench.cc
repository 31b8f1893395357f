#include <numeric>

#include "ops/attention/prepare_qkv.h"
#include "ops/common/cuda_bench.h"

namespace sluice::ops {
namespace {

constexpr int64_t kPageSize = 16;

// 32 heads and 4 KV heads of 128, normed each by itself, to bf16 pages.
void BM_PrepareQkvCuda(benchmark::State& state, CudaBench& bench) {
  const PrepareQkvDesc desc{.num_heads = 32,
                            .num_kv_heads = 4,
                            .head_dim = 128,
                            .norm = QkNorm::kPerHead,
                            .norm_eps = 1e-6f};
  const int64_t tokens = state.range(0);
  const Shape pool{tokens / kPageSize + 1, desc.num_kv_heads, kPageSize, desc.head_dim};
  const Tensor qkv = bench.Floats(DType::kF32, {tokens, (32 + 2 * 4) * 128});
  const Tensor cos_sin = bench.Floats(DType::kF32, {tokens, 2, 64});
  const Tensor norm = bench.Floats(DType::kF32, {128});
  const Tensor k(DType::kBF16, pool, MemoryKind::kCuda);
  const Tensor v(DType::kBF16, pool, MemoryKind::kCuda);
  Tensor slots(DType::kI64, {tokens});
  std::iota(slots.data<int64_t>(), slots.data<int64_t>() + tokens, 0);
  const Tensor placed = bench.Upload(slots);
  // All is read; queries go back, keys and values to half as many bytes.
  const auto written = static_cast<double>(tokens * (32 * 128 * 4 + 2 * 4 * 128 * 2));
  bench.Measure(state, {.bytes = static_cast<double>(qkv.view().NumBytes()) + written}, 1,
                [&](int64_t) {
                  PrepareQkv(desc, cos_sin, norm, norm, placed, qkv, {k, v}, bench.context());
                });
}

[[maybe_unused]] const bool kRegistered = RegisterCudaBench(
    "BM_PrepareQkvCuda", &BM_PrepareQkvCuda, [](benchmark::internal::Benchmark* bench) {
      bench->ArgName("T")->Arg(1)->Arg(64)->Arg(2'048)->Arg(16'384);
    });

}  // namespace
}  // namespace sluice::ops
