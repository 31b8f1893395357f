#pragma once

namespace sluice {

// How experts that have no slot come to be computed with.
enum class OffloadPolicy {
  kPipeline,  // computes with what is there while the rest is on its way, and brings what comes
              // next
  kOnDemand,  // brings what the router chose, waits for it, computes
  kSerial,    // brings every expert of the layer, waits for it, computes
  kResident,  // every expert has a slot
};

struct StreamingOptions {
  OffloadPolicy policy = OffloadPolicy::kPipeline;
  // The rest is the pipeline's alone.
  bool prefetch = true;      // bring experts that the next layer is expected to choose
  bool ready_first = true;   // compute with experts in the order in which they come
  bool cpu_experts = false;  // compute missing experts of few tokens on the CPU, beside a GPU
  int batch_groups = 1;      // parts of a step that take turns in a layer
};

}  // namespace sluice
