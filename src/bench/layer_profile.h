#pragma once

#include <string>

#include "engine/model_runner.h"
#include "plan/hardware_profile.h"

namespace sluice {

// Times one layer of a model with the model's own ops on weights of its shapes: attention, gate and
// one expert for a step of `rows` decoded tokens that see `context` positions each, and how long
// the weights of each take to where they are computed with: from pinned host memory to a CUDA
// device, on the CPU alone from memory to memory. Every call finds other weights than the one
// before, as far as the model's layers and experts, or 256 MB, go. A shared expert is in none of
// the six.
//
// Takes dtype, kv_dtype, cuda, num_threads, tier and page_size of `options`. Throws
// Error(kUnsupported) for a model without experts, Error(kResourceExhausted) without memory for it.
LayerLatencies MeasureLayer(const ModelSpec& spec, const std::string& name,
                            const RunnerOptions& options, int rows, int context);

}  // namespace sluice
