#include <benchmark/benchmark.h>

#include <chrono>
#include <deque>

#include "sched/scheduler.h"

// What the scheduler itself takes of a step: Plan and Commit, with every sequence decoding.
namespace sluice {
namespace {

constexpr int kSteps = 2000;
constexpr int kPageSize = 16;

StepResult Answer(const StepPlan& plan) {
  StepResult result{.step = plan.step};
  for (const SequenceSlice& slice : plan.slices) {
    SliceResult answer{.sequence = slice.sequence};
    for (size_t i = 0; i < slice.sample_rows.size(); ++i) answer.samples.push_back({.token = 5});
    result.slices.push_back(std::move(answer));
  }
  return result;
}

// Arguments: sequences in the batch, their tokens at the start, steps under way, requests waiting.
void SchedulerStep(benchmark::State& state) {
  const auto sequences = static_cast<int>(state.range(0));
  const auto context = static_cast<int>(state.range(1));
  const auto waiting = static_cast<RequestId>(state.range(3));
  const int tokens = context + 2 * kSteps;
  const auto strategy = MakeAutoregressive();
  Scheduler scheduler({.max_num_seqs = sequences,
                       .max_num_batched_tokens = 8192,
                       .max_model_len = tokens,
                       .page_size = kPageSize,
                       .num_pages = sequences * (tokens / kPageSize + 1)},
                      *strategy);
  Request request{.prompt = std::vector<TokenId>(static_cast<size_t>(context), 5)};
  request.sampling.max_tokens = tokens;
  for (RequestId id = 1; id <= static_cast<RequestId>(sequences) + waiting; ++id) {
    request.client = std::to_string(id % 64);
    request.prompt[0] = static_cast<TokenId>(id);  // nothing is shared
    scheduler.Add(id, request, 0);
  }
  std::deque<StepPlan> under_way;
  const auto step = [&] {
    while (std::ssize(under_way) < state.range(2)) under_way.push_back(scheduler.Plan());
    const StepResult result = Answer(under_way.front());
    scheduler.Commit(under_way.front(), result);
    under_way.pop_front();
  };
  const auto& running = scheduler.running();
  while (std::ssize(running) < sequences || running.back()->num_generated() == 0) step();

  for (auto _ : state) {
    const auto start = std::chrono::steady_clock::now();
    under_way.push_back(scheduler.Plan());
    const auto planned = std::chrono::steady_clock::now();
    const StepResult result = Answer(under_way.front());
    const auto answered = std::chrono::steady_clock::now();
    benchmark::DoNotOptimize(scheduler.Commit(under_way.front(), result));
    under_way.pop_front();
    const auto end = std::chrono::steady_clock::now();
    state.SetIterationTime(std::chrono::duration<double>(planned - start + end - answered).count());
  }
}
BENCHMARK(SchedulerStep)
    ->ArgNames({"sequences", "context", "under_way", "waiting"})
    ->Args({64, 1024, 2, 0})
    ->Args({256, 1024, 1, 0})
    ->Args({256, 1024, 2, 0})
    ->Args({256, 16384, 2, 0})
    ->Args({256, 1024, 2, 4096})
    ->UseManualTime()
    ->Iterations(kSteps / 2)
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace sluice
