#include "server/process_metrics.h"

#include <sys/resource.h>

#include <chrono>
#include <filesystem>
#include <iterator>
#include <system_error>
#include <utility>

#include "base/machine.h"

namespace sluice {
namespace {

using prometheus::MetricFamily;
using prometheus::MetricType;

MetricFamily Family(const char* name, const char* help, MetricType type, double value) {
  MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = type;
  prometheus::ClientMetric& metric = family.metric.emplace_back();
  (type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
  return family;
}

double Seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
}

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return Seconds(usage.ru_utime) + Seconds(usage.ru_stime);
}

double OpenFiles() {
  std::error_code error;
  const std::filesystem::directory_iterator files("/proc/self/fd", error);
  return error ? 0.0 : static_cast<double>(std::distance(begin(files), end(files)));
}

}  // namespace

ProcessMetrics::ProcessMetrics(std::function<int()> connections, std::function<int()> answering)
    : connections_(std::move(connections)),
      answering_(std::move(answering)),
      started_(std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch())
                   .count()) {}

std::vector<MetricFamily> ProcessMetrics::Collect() const {
  const MetricType gauge = MetricType::Gauge;
  return {
      Family("process_resident_memory_bytes", "Resident memory of the server's process", gauge,
             static_cast<double>(ResidentBytes())),
      Family("process_cpu_seconds_total", "Processor time of the server's process",
             MetricType::Counter, CpuSeconds()),
      Family("process_open_fds", "Files and sockets that are open", gauge, OpenFiles()),
      Family("process_start_time_seconds", "When the server began, Unix time", gauge, started_),
      Family("sluice:http_connections", "Connections that are open", gauge, connections_()),
      Family("sluice:http_requests_in_progress",
             "Requests that were read and whose answers are not written yet", gauge, answering_())};
}

}  // namespace sluice
