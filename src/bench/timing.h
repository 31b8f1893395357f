#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "device/cuda_stream.h"

namespace sluice {

using BenchClock = std::chrono::steady_clock;

double SecondsSince(BenchClock::time_point start);

// The value below which a share `q` of the values lies, between two neighbours linearly. At least
// one value.
double Quantile(std::vector<double> values, double q);
inline double Median(std::vector<double> values) {
  return Quantile(std::move(values), 0.5);
}

// Samples of the time of call(i) in seconds, i counting up from 0; so many calls behind each other
// as `turns` says find data that no cache holds. Some warm-up calls, then calls for about a fifth
// of a second: 5 samples at least, but for calls of seconds, of which there may be one.
//
// With a stream calls queue work on it, as CudaGraph::Record takes it, and the time is the
// device's: a sample is the mean of a recorded graph of whole rounds of `turns` calls, 20 calls at
// least unless they take long.
std::vector<double> SampleCalls(CudaStream* stream, int64_t turns,
                                const std::function<void(int64_t)>& call);

// The median of SampleCalls.
inline double TimeCalls(CudaStream* stream, int64_t turns,
                        const std::function<void(int64_t)>& call) {
  return Median(SampleCalls(stream, turns, call));
}

}  // namespace sluice
