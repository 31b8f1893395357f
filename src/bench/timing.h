#pragma once

#include <chrono>
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

// Median time of call(i), i counting up, in seconds: some warm-up calls, then calls for about a
// fifth of a second, 5 at least. With a stream calls queue work on it and the time is the device's,
// of calls behind each other.
double TimeCalls(CudaStream* stream, const std::function<void(int)>& call);

}  // namespace sluice
