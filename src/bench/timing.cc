#include "bench/timing.h"

#include <algorithm>

#include "base/check.h"

namespace sluice {
namespace {

constexpr double kWarmUpSeconds = 0.02;
constexpr double kTimedSeconds = 0.2;
constexpr int kFewestSamples = 5;
constexpr int kMostSamples = 2000;
constexpr int kCallsPerDeviceSample = 20;

double TimeOnDevice(CudaStream& stream, const std::function<void(int)>& call) {
  int made = 0;
  const auto queue = [&] {
    for (int i = 0; i < kCallsPerDeviceSample; ++i) call(made++);
  };
  queue();
  stream.Synchronize();
  CudaEvent begin;
  CudaEvent end;
  std::vector<double> samples;
  for (int sample = 0; sample < kFewestSamples; ++sample) {
    begin.Record(stream);
    queue();
    end.Record(stream);
    end.Synchronize();
    samples.push_back(end.SecondsSince(begin) / kCallsPerDeviceSample);
  }
  return Median(std::move(samples));
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

double TimeCalls(CudaStream* stream, const std::function<void(int)>& call) {
  if (stream != nullptr) return TimeOnDevice(*stream, call);
  int made = 0;
  const BenchClock::time_point warm = BenchClock::now();
  do {
    call(made++);
  } while (SecondsSince(warm) < kWarmUpSeconds);
  std::vector<double> samples;
  const BenchClock::time_point start = BenchClock::now();
  while (std::ssize(samples) < kFewestSamples ||
         (SecondsSince(start) < kTimedSeconds && std::ssize(samples) < kMostSamples)) {
    const BenchClock::time_point one = BenchClock::now();
    call(made++);
    samples.push_back(SecondsSince(one));
  }
  return Median(std::move(samples));
}

}  // namespace sluice
