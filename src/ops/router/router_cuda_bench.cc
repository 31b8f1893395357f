#include "ops/common/cuda_bench.h"
#include "ops/permute/dispatch_plan.h"
#include "ops/router/router.h"

namespace sluice::ops {
namespace {

enum class Then { kNothing, kCounts, kPlan };

// The router alone, with counts, or with the index plan behind it. Logits come from the cache, as
// they do behind the product that makes them.
void BM_RouterCuda(benchmark::State& state, CudaBench& bench, const RouterDesc& desc, Then then) {
  const int64_t tokens = state.range(0);
  const Tensor logits = bench.Floats(DType::kF32, {tokens, desc.num_experts});
  const bool biased = desc.score == RouterScore::kSigmoid;
  const Tensor bias = bench.Floats(DType::kF32, {desc.num_experts});
  const Tensor weights(DType::kF32, {tokens, desc.top_k}, MemoryKind::kCuda);
  const Tensor ids(DType::kI32, {tokens, desc.top_k}, MemoryKind::kCuda);
  const Tensor counts(DType::kI32, {desc.num_experts}, MemoryKind::kCuda);
  OpContext& context = bench.context();
  bench.Measure(state,
                {.bytes = static_cast<double>(logits.view().NumBytes() + weights.view().NumBytes() +
                                              ids.view().NumBytes())},
                1, [&](int64_t) {
                  Arena::Scope scope(context.arena);
                  Router(desc, logits, biased ? bias.view() : ConstTensorView(), weights, ids,
                         then == Then::kCounts ? counts.view() : TensorView(), context);
                  if (then == Then::kPlan) BuildDispatchPlan(ids, desc.num_experts, context);
                });
}

bool Register(const char* name, const RouterDesc& desc, Then then) {
  return RegisterCudaBench(
      name,
      [=](benchmark::State& state, CudaBench& bench) { BM_RouterCuda(state, bench, desc, then); },
      [](benchmark::internal::Benchmark* bench) {
        for (const int64_t tokens : {1, 64, 1024, 8192}) bench->Arg(tokens);
      });
}

constexpr RouterDesc kSoftmax{.num_experts = 128, .top_k = 8};
constexpr RouterDesc kGroups{.num_experts = 256,
                             .top_k = 8,
                             .score = RouterScore::kSigmoid,
                             .num_groups = 8,
                             .top_groups = 4};

const bool kRegistered[] = {Register("BM_RouterCuda/128", kSoftmax, Then::kNothing),
                            Register("BM_RouterCuda/128/counts", kSoftmax, Then::kCounts),
                            Register("BM_RouterCuda/128/plan", kSoftmax, Then::kPlan),
                            Register("BM_RouterCuda/256/groups", kGroups, Then::kNothing)};

}  // namespace
}  // namespace sluice::ops
