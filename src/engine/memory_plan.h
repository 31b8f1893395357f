#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "arch/model_spec.h"
#include "base/machine.h"
#include "device/dtype.h"
#include "device/timeline.h"
#include "dist/process_group.h"
#include "kv/page_pool.h"
#include "moe/streaming_options.h"
#include "offload/eviction_policy.h"
#include "offload/simulated_link.h"
#include "trace/router_observer.h"

namespace sluice {

class HostExperts;
class ModelWeights;

// Where experts without a slot are, and how they come into one.
struct OffloadOptions {
  // Of host memory, that experts come over a link from; those beyond them are read from the
  // checkpoint. 0 = the checkpoint is read straight into slots, which a CUDA device's cannot be.
  int host_slots = 0;
  StreamingOptions streaming;
  EvictionPolicy eviction = EvictionPolicy::kExpected;
  SimulatedLink link;  // of the CPU's host_slots
  // Steps in which a prompt's rows go through the layers while others decode, as WorkerInfo's.
  int prefill_layer_groups = 1;
  // The host's slots, where several runners use them one after the other; null = the runner's own.
  HostExperts* shared_host = nullptr;
};

struct RunnerOptions {
  std::optional<int> cuda;  // the CUDA device that computes and holds the model; none = the CPU
  double gpu_memory_utilization = 0.9;  // share of the device's memory that this process may take
  DType dtype = DType::kF32;            // of the weights: f32, bf16 or f16
  std::optional<DType> kv_dtype;        // of keys and values: f32 or bf16; none = as the weights
  int num_threads = 1;                  // counts the caller
  CpuTier tier = CpuTier::kPortable;
  bool reference_ops = false;  // every op by its plain maths, slowly
  int page_size = 16;          // positions a KV page
  int num_pages = 0;
  int num_host_pages = 0;   // of host memory, for what is swapped out
  int max_model_len = 0;    // at most the spec's max_positions
  int max_step_rows = 512;  // most rows of one step: what scratch is planned for
  int max_sequences = 64;   // most sequences of one step, likewise
  int expert_slots = 0;     // experts in the memory of what computes, of all layers; 0 = every one
  OffloadOptions offload;   // where not every expert has a slot
  bool batch_invariant = false;             // as OpContext's, on CUDA; the CPU always is
  bool decoding_first = false;              // as OpContext's: with batch_invariant, on CUDA
  bool blocking_launches = false;           // a CUDA error names its kernel; slow
  bool poison_freed_slots = false;          // see ExpertStore::Options
  ProcessGroup* expert_parallel = nullptr;  // experts are sharded over its ranks; null = all here
  // Every weight but routed experts, of this spec and dtype in the memory that computes, where
  // several runners use them; null = the runner's own.
  const ModelWeights* shared_weights = nullptr;
  RouterObserver* observer = nullptr;  // may be null
  Timeline* timeline = nullptr;        // that steps are recorded on; may be null
};

// What a model needs in the memory of the device that runs it.
struct MemoryNeeds {
  uint64_t weight_bytes = 0;
  uint64_t expert_bytes = 0;  // of weight_bytes: the slots of routed experts
  uint64_t shared_bytes = 0;  // of weight_bytes: there already
  // Of the host's memory, for experts without a slot: on the CPU part of weight_bytes, else not
  // counted.
  uint64_t host_expert_bytes = 0;
  uint64_t kv_bytes = 0;
  uint64_t swap_bytes = 0;  // of the host's memory: on the CPU part of kv_bytes, else not counted
  uint64_t scratch_bytes = 0;  // of a step of max_step_rows
  uint64_t arena_bytes = 0;    // of scratch_bytes: the step's tensors
  uint64_t inbox_bytes = 0;    // of scratch_bytes: what the host tells a device's kernels
  // Code, tokenizer, threads, queues; on a CUDA device kernels' code and recorded steps.
  uint64_t process_bytes = 0;
  uint64_t total() const { return weight_bytes + kv_bytes + scratch_bytes + process_bytes; }
};
MemoryNeeds EstimateMemory(const ModelSpec& spec, const RunnerOptions& options);

// Throws Error(kResourceExhausted) where the needs, but for weights that are there already, pass
// the memory that is available, and says what would fit.
void CheckFits(const ModelSpec& spec, const RunnerOptions& options, const MemoryNeeds& needs);

// Experts that this process holds. Throws Error(kUnsupported) where they cannot be shared evenly.
int LocalExperts(const ModelSpec& spec, const RunnerOptions& options);

// Whether rows may be left between layer groups from one step to the next.
bool RunsLayerGroups(const RunnerOptions& options);

// Most rows whose logits are held at once.
int64_t MaxLogitRows(const RunnerOptions& options);

// Bytes that are free for a model: of the host, or within the share of a CUDA device's memory that
// the options allow. Throws Error(kUnsupported) when there is no such device.
uint64_t AvailableMemory(const RunnerOptions& options);

// The types that weights can be held in, whatever the checkpoint stores.
std::span<const DType> WeightDTypes();

// The KV layout that a spec has under `options`.
KvLayout KvLayoutOf(const ModelSpec& spec, const RunnerOptions& options);

}  // namespace sluice
