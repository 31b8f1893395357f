#include "bench/timing.h"

#include <algorithm>

#include "base/check.h"
#include "device/cuda_graph.h"

namespace sluice {
namespace {

constexpr double kWarmUpSeconds = 0.02;
constexpr double kTimedSeconds = 0.2;
constexpr double kPatienceSeconds = 5.0;  // after which fewer samples than usual are enough
constexpr int kFewestSamples = 5;
constexpr int kMostSamples = 2000;
// Calls of a graph: the two events around it cost about as much as a small kernel.
constexpr int64_t kCallsOfGraph = 20;
constexpr double kGraphSeconds = 0.02;  // that calls which take long need not pass
constexpr int kMostReplays = 30;

// Whether so many samples, taken since `start`, are not enough yet.
bool WantsMore(size_t samples, int most, BenchClock::time_point start) {
  const double seconds = SecondsSince(start);
  if (samples == 0) return true;
  if (seconds >= kPatienceSeconds) return false;
  const bool few = samples < kFewestSamples;
  return few || (seconds < kTimedSeconds && static_cast<int64_t>(samples) < most);
}

std::vector<double> SampleOnDevice(CudaStream& stream, int64_t turns,
                                   const std::function<void(int64_t)>& call) {
  CudaEvent begin;
  CudaEvent end;
  const auto time = [&](const std::function<void()>& queue) {
    begin.Record(stream);
    queue();
    end.Record(stream);
    end.Synchronize();
    return end.SecondsSince(begin);
  };
  call(0);  // takes the arena's memory, which a recording must not
  stream.Synchronize();
  const double one = std::max(time([&] { call(0); }), 1e-9);
  const auto enough = static_cast<int64_t>(kGraphSeconds / one);
  const int64_t wanted = std::clamp<int64_t>(enough, 1, kCallsOfGraph);
  const int64_t calls = (wanted + turns - 1) / turns * turns;
  const CudaGraph graph = CudaGraph::Record(stream, [&] {
    for (int64_t i = 0; i < calls; ++i) call(i);
  });
  const auto replay = [&] { graph.Launch(stream); };
  time(replay);
  std::vector<double> samples;
  const BenchClock::time_point start = BenchClock::now();
  while (WantsMore(samples.size(), kMostReplays, start)) {
    samples.push_back(time(replay) / static_cast<double>(calls));
  }
  return samples;
}

}  // namespace

double SecondsSince(BenchClock::time_point start) {
  return std::chrono::duration<double>(BenchClock::now() - start).count();
}

double Quantile(std::vector<double> values, double q) {
  SLUICE_CHECK(!values.empty());
  SLUICE_CHECK(q >= 0.0 && q <= 1.0);
  std::sort(values.begin(), values.end());
  const double at = q * static_cast<double>(values.size() - 1);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (at - static_cast<double>(below)) * (values[above] - values[below]);
}

std::vector<double> SampleCalls(CudaStream* stream, int64_t turns,
                                const std::function<void(int64_t)>& call) {
  SLUICE_CHECK_GE(turns, 1);
  if (stream != nullptr) return SampleOnDevice(*stream, turns, call);
  int64_t made = 0;
  const BenchClock::time_point warm = BenchClock::now();
  do {
    call(made++);
  } while (SecondsSince(warm) < kWarmUpSeconds);
  std::vector<double> samples;
  const BenchClock::time_point start = BenchClock::now();
  while (WantsMore(samples.size(), kMostSamples, start)) {
    const BenchClock::time_point one = BenchClock::now();
    call(made++);
    samples.push_back(SecondsSince(one));
  }
  return samples;
}

}  // namespace sluice
