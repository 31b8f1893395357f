#include <benchmark/benchmark.h>

#include "ops/common/bench_support.h"
#include "ops/router/router.h"

namespace sluice::ops {
namespace {

void RunRouter(benchmark::State& state, const RouterDesc& desc, ConstTensorView bias) {
  BenchRunner runner;
  const int64_t tokens = state.range(0);
  const Tensor logits = BenchTensor(DType::kF32, {tokens, desc.num_experts});
  Tensor weights(DType::kF32, {tokens, desc.top_k});
  Tensor ids(DType::kI32, {tokens, desc.top_k});
  for (auto _ : state) Router(desc, logits, bias, weights, ids, {}, runner.context());
  state.SetBytesProcessed(state.iterations() * logits.view().NumBytes());
  state.SetItemsProcessed(state.iterations() * tokens);
}

// Tokens against 128 experts, 8 chosen.
void BM_Router(benchmark::State& state) {
  RunRouter(state, {.num_experts = 128, .top_k = 8}, {});
}

// Tokens against 256 experts in 8 groups, 8 chosen out of 4 of them by sigmoid and bias.
void BM_RouterGroups(benchmark::State& state) {
  const Tensor bias = BenchTensor(DType::kF32, {256});
  RunRouter(state,
            {.num_experts = 256,
             .top_k = 8,
             .score = RouterScore::kSigmoid,
             .num_groups = 8,
             .top_groups = 4},
            bias);
}

BENCHMARK(BM_Router)->Arg(1)->Arg(64)->Arg(8192)->UseRealTime();
BENCHMARK(BM_RouterGroups)->Arg(1)->Arg(64)->Arg(8192)->UseRealTime();

}  // namespace
}  // namespace sluice::ops
