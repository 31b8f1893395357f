#include "cli/bench_report.h"

#include <fmt/format.h>

#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>
#include <utility>

#include "base/machine.h"
#include "device/device_monitor.h"

namespace sluice {
namespace {

boost::json::object Describe(const BenchSubject& subject) {
  const RunnerOptions& options = subject.options;
  return {{"model", subject.model.name},
          {"random_weights", subject.random_weights},
          {"routing", subject.routing},
          {"dtype", DTypeName(options.dtype)},
          {"device", options.cuda.has_value() ? FindCudaDevice(*options.cuda).name : "cpu"},
          {"cpu", CpuModelName()},
          {"cpu_tier", CpuTierName(options.tier)},
          {"threads", options.num_threads}};
}

boost::json::array ToJson(const std::vector<DeviceSample>& samples) {
  boost::json::array listed;
  for (const DeviceSample& sample : samples) {
    listed.push_back({{"seconds", sample.seconds},
                      {"memory_bytes", sample.memory_bytes},
                      {"compute_percent", sample.compute_percent},
                      {"memory_percent", sample.memory_percent},
                      {"watts", sample.watts},
                      {"clock_mhz", sample.clock_mhz}});
  }
  return listed;
}

boost::json::object Watched(const CudaStream* stream,
                            const std::function<boost::json::object()>& benchmark) {
  if (stream == nullptr) return benchmark();
  DeviceMonitor monitor(stream->device().pci_bus_id);
  boost::json::object figures = benchmark();
  figures["device_samples"] = ToJson(monitor.Stop());
  return figures;
}

}  // namespace

std::string Machine(const RunnerOptions& options) {
  if (options.cuda.has_value()) return FindCudaDevice(*options.cuda).name;
  return fmt::format("{} threads ({})", options.num_threads, CpuTierName(options.tier));
}

int ReportBench(const BenchSubject& subject, bool json,
                const std::function<boost::json::object()>& benchmark,
                const std::function<void(const boost::json::object& figures)>& print) {
  const boost::json::object figures = Watched(subject.stream, benchmark);
  if (!json) {
    print(figures);
    return 0;
  }
  boost::json::object result = Describe(subject);
  result.insert(figures.begin(), figures.end());
  fmt::print("{}\n", boost::json::serialize(result));
  return 0;
}

}  // namespace sluice
