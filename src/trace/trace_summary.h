#pragma once

#include <cstdint>

#include "trace/router_trace.h"

namespace sluice {

// What a trace holds, beside its header.
struct TraceSummary {
  uint64_t records = 0;
  uint64_t steps = 0;  // runs of records with one step
  uint64_t first_step = 0;
  uint64_t last_step = 0;
  uint64_t sequences = 0;         // different ones, counted up to kMaxSequences
  bool more_sequences = false;    // there are more
  int layers = 0;                 // that have records
  int32_t last_position = 0;      // the highest
  double tokens_per_step = 0.0;   // mean, in a layer
  uint64_t most_tokens = 0;       // of one step and layer
  double experts_per_step = 0.0;  // different ones, mean over steps and layers

  static constexpr uint64_t kMaxSequences = 1 << 20;
};

// Reads the rest of the source, in bounded memory.
TraceSummary SummarizeTrace(BatchSource& source);

}  // namespace sluice
