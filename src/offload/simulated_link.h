#pragma once

namespace sluice {

// The link that copies within host memory stand for, where the CPU computes.
struct SimulatedLink {
  double bytes_per_s = 0.0;  // 0 = as fast as memory
  double latency_s = 0.0;    // that each copy takes on top
};

}  // namespace sluice
