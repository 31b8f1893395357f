#pragma once

#include <boost/json/object.hpp>
#include <cstdint>

#include "engine/model_runner.h"

namespace sluice {

// Requests of random prompts, all alike in length, that are there from the beginning.
struct ThroughputOptions {
  int prompts = 32;
  int serial_prompts = 4;  // of them, run one after the other for comparison
  int prompt_tokens = 128;
  int output_tokens = 64;
  int max_num_seqs = 8;  // in flight at once, batched
  int max_num_batched_tokens = 2048;
  uint64_t seed = 0;  // of the prompts, which differ
};

// Runs the requests through the engine's scheduler twice, as a server does: "serial", one after the
// other, and "batched", a waiting request taking a place as soon as one is free. Returns for each
// the output and total tokens a second, the median and 99th percentile of the time between two
// tokens of a sequence, the median time to its first token, and the memory in use at the end: the
// process's, or the device's. "ratio" is batched over serial, in output tokens a second. Throws
// Error(kInvalidArgument) where prompt and output exceed the runner's context.
boost::json::object BenchThroughput(ModelRunner& runner, const ThroughputOptions& options);

}  // namespace sluice
