#pragma once

#include <string>
#include <string_view>

#include "base/metrics.h"

namespace sluice {

inline constexpr std::string_view kMetricsContentType = "text/plain; version=0.0.4; charset=utf-8";

// The process's metrics in Prometheus' text format 0.0.4.
std::string MetricsText(const Metrics& metrics);

}  // namespace sluice
