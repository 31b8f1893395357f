#pragma once

#include <chrono>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "bench/serve_workload.h"
#include "bench/serving_figures.h"

namespace sluice {

struct LoadTarget {
  std::string base_url = "http://127.0.0.1:8000";  // or https
  std::string endpoint = "/v1/completions";        // or one that ends in /chat/completions
  std::string api_key;                             // empty = none is sent
  std::string model;
  double temperature = 0.0;
  bool ignore_eos = false;  // a field that OpenAI's own API does not know
  // How long to wait for a connection, and then for each next byte.
  std::chrono::milliseconds timeout{600'000};
};

// The name of the first model that the server lists. Throws Error when it gives none.
std::string FirstServedModel(const LoadTarget& target);

struct LoadSchedule {
  // When each request may be sent, seconds after the beginning; ascending, as many as requests.
  std::span<const double> at_s;
  std::optional<int> max_concurrency;  // requests on their way at once
  // That send and read. Each has its share of the requests and of max_concurrency, one at least.
  int num_threads = 1;
};

// Sends each request of a load when its time has come and there is a place for it, and reads the
// streamed answers. Returns what happened to each, in their order, when all have ended: a failure
// is an outcome. A request is sent on a connection that an earlier answer left open, else on a new
// one. Throws Error for an address that is none or that no name server knows.
std::vector<RequestOutcome> SendLoad(const LoadTarget& target,
                                     std::span<const LoadRequest> requests,
                                     const LoadSchedule& schedule);

}  // namespace sluice
