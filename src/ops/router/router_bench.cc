#include <benchmark/benchmark.h>

#include "ops/common/bench_support.h"
#include "ops/router/router.h"

namespace sluice::ops {
namespace {

// Tokens against 128 experts, 8 chosen.
void BM_Router(benchmark::State& state) {
  BenchRunner runner;
  const int64_t tokens = state.range(0);
  const RouterDesc desc{.num_experts = 128, .top_k = 8};
  const Tensor logits = BenchTensor(DType::kF32, {tokens, desc.num_experts});
  Tensor weights(DType::kF32, {tokens, desc.top_k});
  Tensor ids(DType::kI32, {tokens, desc.top_k});
  Tensor counts(DType::kI32, {desc.num_experts});
  for (auto _ : state) Router(desc, logits, weights, ids, counts, runner.context());
  state.SetBytesProcessed(state.iterations() * logits.view().NumBytes());
  state.SetItemsProcessed(state.iterations() * tokens);
}

BENCHMARK(BM_Router)->Arg(1)->Arg(64)->Arg(8192)->UseRealTime();

}  // namespace
}  // namespace sluice::ops
