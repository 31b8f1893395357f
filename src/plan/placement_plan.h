#pragma once

#include <optional>
#include <string>
#include <vector>

#include "arch/model_spec.h"
#include "plan/hardware_profile.h"

namespace sluice {

// Ways to lay a model over GPUs.
enum class PlacementStrategy {
  kData,        // a whole model on each GPU, with sequences of its own
  kTensor,      // every matrix cut over all GPUs, experts too
  kExpert,      // attention cut over all GPUs, whole experts spread over them
  kDataExpert,  // attention whole on each GPU, for its own sequences; experts spread over all
  kHybrid,      // attention cut within groups, each with its own sequences; experts spread over all
  kReplicated,  // as kDataExpert, with further replicas of the hottest experts
};
const char* PlacementStrategyName(PlacementStrategy strategy);

// How strategies differ: gpus = tp * dp.
struct GpuLayout {
  PlacementStrategy strategy = PlacementStrategy::kData;
  int tp = 1;           // GPUs that attention is cut over
  int dp = 1;           // groups of them with sequences of their own
  bool spread = false;  // whole experts over all GPUs; else each cut over its group
  int extra = 0;        // slots of a GPU and layer for replicas, beside its share of the experts
};

struct PlacementRequest {
  int gpus = 1;
  int hosts = 1;            // with gpus / hosts each
  double gpu_memory = 0.0;  // bytes of a GPU that may be used
  int sequences = 64;       // in flight
  int context = 4096;       // positions of each
  int step_tokens = 8192;   // of a prefill step, in each group
  double expert_bits = 16.0;
  double weight_bits = 16.0;
  double kv_bits = 16.0;
  int extra_slots = 1;     // of kReplicated
  double imbalance = 1.0;  // tokens of the fullest GPU / mean, experts spread as they are
  double replicated_imbalance = 1.0;  // the same with replicas
  double peer_latency_s = 10e-6;      // of a collective within a host
  double network_latency_s = 25e-6;   // of one that spans hosts
};

// Bytes of one GPU.
struct GpuMemory {
  double weights = 0.0;
  double kv = 0.0;           // of all positions of its sequences
  double activations = 0.0;  // of a prefill step
  double buffers = 0.0;      // that collectives send from and receive to
  double runtime = 0.0;      // the driver's context and libraries

  double total() const { return weights + kv + activations + buffers + runtime; }
};

// A step of one GPU. Reading and computing overlap; communication is waited for.
struct PlacementStep {
  double tokens = 0.0;    // of all GPUs together
  double memory_s = 0.0;  // reading weights and KV
  double compute_s = 0.0;
  double communication_s = 0.0;
  double sent_bytes = 0.0;  // by one GPU, of all layers
  double step_s = 0.0;
  double tokens_per_s = 0.0;
};

struct StrategyResult {
  GpuLayout layout;
  std::string refused;  // why the layout cannot be, else empty
  GpuMemory memory;
  double short_by = 0.0;      // bytes that a GPU lacks; 0 when it fits
  const char* exchange = "";  // how experts' tokens travel: "none", "all-reduce", "all-to-all" or
                              // "all-gather, reduce-scatter", whichever is faster in decoding
  PlacementStep prefill;
  PlacementStep decode;
  int most_sequences = 0;      // that fit, of `context` positions
  double longest_context = 0;  // that memory holds with one sequence in each group

  bool fits() const { return refused.empty() && short_by == 0.0; }
};

struct PlacementPlan {
  std::vector<StrategyResult> results;  // every strategy that `gpus` GPUs can have
  std::optional<size_t> best;           // of those that fit, most tokens/s in decoding; of equals
                                        // the first
  // Requests to keep in flight, of 4, 8 ... 256: the fewest with which decoding comes within a
  // tenth of the fastest of them that fits; at most the sequences that fit.
  int queue_depth = 0;
  std::string reason;  // why the best is, or what the nearest one lacks
};

// The cost model takes figures at their best: every strategy alike. Throws Error(kInvalidArgument)
// for counts that cannot be (gpus not a multiple of hosts) and for a profile that lacks a figure
// that is needed: gpu.*, peer.* for several GPUs, network.* for several hosts.
PlacementPlan PlanPlacement(const ModelSpec& spec, const HardwareProfile& profile,
                            const PlacementRequest& request);

}  // namespace sluice
