#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "arch/model_spec.h"
#include "plan/expert_cache.h"
#include "plan/hardware_profile.h"

namespace sluice {

// What a decode step of a model moves and computes, as far as planning needs it.
struct ModelFootprint {
  int moe_layers = 0;
  int num_experts = 0;
  int top_k = 0;
  double expert_bytes = 0.0;         // one expert of one layer
  double resident_bytes = 0.0;       // all other weights: always in GPU memory
  double resident_read_bytes = 0.0;  // of those, read in a step: all but the embedding's other rows
  double kv_bytes = 0.0;             // a position of one sequence, all layers
  double sequence_bytes = 0.0;       // a sequence's share of a step's activations and logits
  double token_flops = 0.0;          // a token through resident weights and its top_k experts
  double expert_flops = 0.0;         // a token through one expert
};

// The footprint with routed experts of `expert_bits` a weight (4.5 for 4-bit blocks with scales),
// all else of `resident_bits`, keys and values of `kv_bits`. Throws Error(kInvalidArgument) for a
// model without experts.
ModelFootprint FootprintOf(const ModelSpec& spec, double expert_bits, double resident_bits,
                           double kv_bits);

// How much of a machine a plan may use, and what it is for.
struct OffloadRequest {
  double vram_budget = 0.0;  // bytes
  double ram_budget = 0.0;   // bytes: experts that do not fit are read from disk for each use
  int context = 0;           // positions a sequence holds
  int max_sequences = 1024;
  // The longest step allowed, beside a prompt too: the latency of a token.
  std::optional<double> max_step_s;
  // Of the layers: where such a step takes prompts, which need nearly every expert there.
  double prompt_share = 0.0;
  // The CPU computes missing experts too, at so many FLOP/s, while the link brings others. Those of
  // prompts, with more rows, are counted as all the link's, which is at most too much. None: it
  // computes no experts.
  std::optional<double> cpu_flops;
  // Of a trace, by experts in the cache. Without it experts are alike and the cache hits by its
  // share of them: cached / all.
  std::optional<CacheCurve> hit_rates;
  // Without hit_rates: whether the cache drops what was used longest ago. Layers come round and
  // round, so an expert then hits only where it comes again before the cache is through all others.
  bool evicts_lru = false;
  // Experts in GPU memory beside n sequences, negative where these do not fit: as an engine counts
  // that knows more than the footprint. Without it CacheCapacity's own arithmetic.
  std::function<int(int sequences)> slots;
};

// A decode step of n sequences with `cached` experts in GPU memory, and what it costs on each path.
struct OffloadStep {
  int sequences = 0;
  int cached_experts = 0;         // of all layers together
  double distinct_experts = 0.0;  // expected, of one layer
  double hit_rate = 0.0;          // of distinct experts, found in GPU memory
  double link_s = 0.0;            // experts that miss, over the link; or shared with the CPU
  double host_s = 0.0;            // the same, read from host memory
  double disk_s = 0.0;            // those that host memory does not hold
  double gpu_memory_s = 0.0;      // weights and KV, read from GPU memory
  double gpu_compute_s = 0.0;
  double step_s = 0.0;  // the longest of these: all overlap
  // The same with all experts of request.prompt_share of the layers, and what bounds that.
  double beside_prompt_s = 0.0;
  const char* beside_prompt_bound = "";
  double tokens_per_s = 0.0;
  const char* bound = "";  // "link", "host memory", "disk", "GPU memory" or "GPU compute"
};

// Experts that GPU memory has slots for beside the cache: one computes while the next arrives.
constexpr int kTransferSlots = 2;

// The share of a step's experts that are found in GPU memory, where all experts are alike, a
// layer's run needs each with chance `chance` and `cached` of `all` are kept. A cache that keeps
// what is used soonest holds a fixed set of such experts, and hits by its share of them. One that
// drops what was used longest ago hits where an expert comes again within the runs that fill it:
// never where each run needs more than the cache holds of the layer.
double AlikeHitRate(double cached, double all, double chance, bool evicts_lru);

// Experts that fit in the cache beside n sequences, at most all; negative when the sequences do not
// fit even without one.
int CacheCapacity(const ModelFootprint& model, const OffloadRequest& request, int sequences);

// The cost of a step of n sequences with so many experts in the cache.
OffloadStep CostStep(const ModelFootprint& model, const HardwareProfile& profile,
                     const OffloadRequest& request, int sequences, int cached_experts);

struct OffloadPlan {
  OffloadStep best;               // most tokens/s; of equals, the fewest sequences
  OffloadStep one;                // a single sequence, for comparison
  int memory_limit = 0;           // most sequences that fit
  std::optional<int> hides_link;  // fewest sequences whose step missing experts do not bound
};

// Chooses n and the cache under the request's limits. Throws Error: kInvalidArgument for a profile
// without a figure that is needed; kResourceExhausted, saying by how much, when one sequence does
// not fit or exceeds max_step_s.
OffloadPlan SolveOffload(const ModelFootprint& model, const HardwareProfile& profile,
                         const OffloadRequest& request);

// What prompts that go through `num_layers` layers in so many groups are to OffloadRequest: the
// share of the largest group in the layers with experts.
double PromptShare(const ModelFootprint& model, int num_layers, int groups);

// In how many such groups, `least` to `most`, a step like `step` keeps request.max_step_s beside
// prompts: the fewest, or `most` where none does.
int LayerGroupsWithin(const ModelFootprint& model, const HardwareProfile& profile,
                      OffloadRequest request, const OffloadStep& step, int num_layers, int least,
                      int most);

}  // namespace sluice
