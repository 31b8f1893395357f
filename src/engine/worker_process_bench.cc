// What it costs to run a step in another process: plan there, result back, with nothing done there.
#include "engine/worker_process.h"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "engine/testing_worker.h"

namespace sluice {
namespace {

// Sequences that decode at position 2047 over pages of 16.
StepPlan DecodePlan(int64_t sequences) {
  StepPlan plan{.step = 1};
  for (int64_t i = 0; i < sequences; ++i) {
    SequenceSlice& slice = plan.slices.emplace_back();
    slice.sequence = static_cast<SequenceId>(i);
    slice.tokens = {7};
    slice.positions = slice.kv_positions = {2047};
    slice.kv_length = 2048;
    slice.pages = BlockTable(std::vector<PageId>(128, static_cast<PageId>(i)));
    slice.sample_rows = {0};
  }
  return plan;
}

// The median counts: what else runs on the machine must not.
void BM_StepInAnotherProcess(benchmark::State& state) {
  WorkerProcess worker(
      {.command = {SLUICE_TESTING_WORKER}, .order = [](WorkerChannel& channel, const WorkerInfo*) {
         channel.Send(TestingOrder{.worker = TestingWorker::kEcho});
       }});
  const StepPlan plan = DecodePlan(state.range(0));
  std::vector<double> microseconds;
  for (auto _ : state) {
    const auto start = std::chrono::steady_clock::now();
    benchmark::DoNotOptimize(worker.Execute(plan));
    const std::chrono::duration<double, std::micro> taken =
        std::chrono::steady_clock::now() - start;
    microseconds.push_back(taken.count());
  }
  const auto middle = microseconds.begin() + static_cast<ptrdiff_t>(microseconds.size() / 2);
  std::nth_element(microseconds.begin(), middle, microseconds.end());
  state.counters["median_us"] = *middle;
}
BENCHMARK(BM_StepInAnotherProcess)->Arg(1)->Arg(8)->Arg(64)->UseRealTime();

}  // namespace
}  // namespace sluice
