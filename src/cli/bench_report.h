#pragma once

#include <boost/json/object.hpp>
#include <functional>
#include <string>

#include "cli/loaded_model.h"
#include "device/cuda_stream.h"
#include "engine/memory_plan.h"

namespace sluice {

// What a benchmark measures, for the head of its result.
struct BenchSubject {
  const OpenedModel& model;
  const RunnerOptions& options;
  const CudaStream* stream;  // null on the CPU
  std::string routing;       // where experts come from
  bool random_weights;
};

// "4 threads (avx512)", or the GPU's name.
std::string Machine(const RunnerOptions& options);

// Runs a benchmark and reports on it: what ran where and the figures that `benchmark` gives, on a
// GPU with the samples of the driver's management library taken meanwhile. As JSON, or as what
// `print` makes of them. Returns the exit code.
int ReportBench(const BenchSubject& subject, bool json,
                const std::function<boost::json::object()>& benchmark,
                const std::function<void(const boost::json::object& figures)>& print);

}  // namespace sluice
