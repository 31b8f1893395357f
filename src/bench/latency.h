#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <vector>

#include "engine/model_runner.h"

namespace sluice {

// Wall times of one batch that is prefilled, in steps of as many rows as the runner's options say,
// and then decoded step by step, greedily, through the engine's worker.
struct LatencyOptions {
  int batch = 1;
  int prompt_tokens = 128;
  int prefill_chunk = 0;  // prompt tokens of each sequence that a step prefills; 0 = all at once
  int output_tokens = 64;
  int repeats = 3;    // after one warm-up
  uint64_t seed = 0;  // of the random prompts, which differ from row to row
};

// Runs the benchmark and returns its figures: raw samples, medians, the bytes that a decode step
// must read with the experts it touched, the read bandwidth of this machine for so many bytes, and
// the share of that floor which decoding reached. A decode step's time is that from one step's
// result to the next one's. `decode_host_ms` is the part of it in which the host did not wait for
// the device: where the next step is queued meanwhile, the device works through that. The runner
// needs pages for batch * (prompt_tokens + output_tokens) positions.
boost::json::object BenchLatency(ModelRunner& runner, const LatencyOptions& options);

// The same generation with a KV cache, and without one: every step runs the whole sequence again.
boost::json::object BenchKvCache(ModelRunner& runner, const LatencyOptions& options);

}  // namespace sluice
