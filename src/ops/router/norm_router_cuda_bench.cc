#include "ops/common/cuda_bench.h"
#include "ops/router/norm_router.h"

namespace sluice::ops {
namespace {

// From the residual to normed rows and the choice; matrices of several layers in turn.
void BM_NormRouterCuda(benchmark::State& state, CudaBench& bench, const RouterDesc& router,
                       int64_t width) {
  const int64_t tokens = state.range(0);
  const int64_t matrix_bytes = router.num_experts * width * static_cast<int64_t>(sizeof(Bf16));
  const int64_t copies = bench.Copies(matrix_bytes);
  const Tensor matrices = bench.Floats(DType::kBF16, {copies, router.num_experts, width});
  const Tensor x = bench.Floats(DType::kF32, {tokens, width});
  const Tensor norm_weight = bench.Floats(DType::kF32, {width});
  const Tensor bias = bench.Floats(DType::kF32, {router.num_experts});
  const bool biased = router.score == RouterScore::kSigmoid;
  const Tensor h(DType::kBF16, {tokens, width}, MemoryKind::kCuda);
  const Tensor weights(DType::kF32, {tokens, router.top_k}, MemoryKind::kCuda);
  const Tensor ids(DType::kI32, {tokens, router.top_k}, MemoryKind::kCuda);
  const NormRouterDesc desc{.norm = {.eps = 1e-6f}, .router = router};
  bench.Measure(
      state,
      {.bytes = static_cast<double>(matrix_bytes + x.view().NumBytes() + h.view().NumBytes())},
      copies, [&](int64_t i) {
        NormRouter(desc, x, norm_weight, matrices.view()[i % copies],
                   biased ? bias.view() : ConstTensorView(), h, weights, ids, bench.context());
      });
}

bool Register(const char* name, const RouterDesc& router, int64_t width) {
  return RegisterCudaBench(
      name,
      [=](benchmark::State& state, CudaBench& bench) {
        BM_NormRouterCuda(state, bench, router, width);
      },
      [](benchmark::internal::Benchmark* bench) {
        for (const int64_t tokens : {1, 2, 4, 8, 16, 64, 8192}) bench->Arg(tokens);
      });
}

constexpr RouterDesc kSoftmax{.num_experts = 128, .top_k = 8};
constexpr RouterDesc kGroups{.num_experts = 256,
                             .top_k = 8,
                             .score = RouterScore::kSigmoid,
                             .num_groups = 8,
                             .top_groups = 4};

const bool kRegistered[] = {Register("BM_NormRouterCuda/128x2048", kSoftmax, 2048),
                            Register("BM_NormRouterCuda/256x7168/groups", kGroups, 7168)};

}  // namespace
}  // namespace sluice::ops
