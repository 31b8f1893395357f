#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "study/load_counts.h"

namespace sluice {

// What a server that was started with --expert-load counted since then.
struct ServerLoad {
  std::string model;
  uint64_t steps = 0;
  LoadCounts counts;
};

// Out of the text of its /metrics. Throws Error: kUnsupported when it does not count experts,
// kDataLoss for lines that are not as a server writes them.
ServerLoad ParseServerLoad(std::string_view metrics);

// Asks for a server's /metrics over HTTP; `url` as http://127.0.0.1:8000. Throws Error.
std::string FetchMetrics(const std::string& url);

struct WatchOptions {
  int windows = 12;
  std::chrono::duration<double> window{5.0};
};

struct WatchedLoad {
  std::string model;
  std::vector<LoadCounts> windows;  // at least one; steps are numbered since the server's start
};

// Calls `fetch` for /metrics now and at the end of each window, and sleeps between. A window in
// which the server runs no step becomes a part of the next. Throws what `fetch` and ParseServerLoad
// throw, Error(kUnavailable) when counts go back, as those of another server, and
// Error(kInvalidArgument) when there were no steps at all.
WatchedLoad WatchServer(const std::function<std::string()>& fetch, const WatchOptions& options);

}  // namespace sluice
