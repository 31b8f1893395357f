#pragma once

#include <chrono>
#include <functional>
#include <vector>

#include "device/cuda_stream.h"

namespace sluice {

using BenchClock = std::chrono::steady_clock;

double SecondsSince(BenchClock::time_point start);

// Of at least one value.
double Median(std::vector<double> values);

// Median time of call(i), i counting up, in seconds: some warm-up calls, then calls for about a
// fifth of a second, 5 at least. With a stream calls queue work on it and the time is the device's,
// of calls behind each other.
double TimeCalls(CudaStream* stream, const std::function<void(int)>& call);

}  // namespace sluice
