#pragma once

#include <filesystem>

namespace sluice {

// A trace as text, one record a line, for tools that read tables:
//   # {"model": ..., "layers": ..., "experts": ..., "top_k": ..., "seed": ..., "source": ...}
//   step,sequence,position,layer,expert_0,...,expert_{k-1},weight_0,...,weight_{k-1}
//   0,3,17,0,5,2,0.75,0.25
// Weights have as many digits as tell each float from the next, so that both ways lose nothing.

// Writes the trace at `trace` as CSV to `csv`, which appears whole or not at all. Throws what
// RouterTraceReader throws, Error(kInvalidArgument) when `csv` cannot be made and
// Error(kResourceExhausted) when the disk is full.
void TraceToCsv(const std::filesystem::path& trace, const std::filesystem::path& csv);

// The other way. Throws Error: kNotFound, kDataLoss naming the line that is not as above, and what
// RouterTraceWriter throws.
void CsvToTrace(const std::filesystem::path& csv, const std::filesystem::path& trace);

}  // namespace sluice
