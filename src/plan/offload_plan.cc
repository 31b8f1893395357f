#include "plan/offload_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/machine.h"
#include "plan/batch_theory.h"

namespace sluice {
namespace {

// Of what host memory gives to the CPU alone, what it gives to the CPU and the link together: 0.7
// to 0.8 of it on hosts of H100s.
constexpr double kBesideLink = 0.75;

// Rates that differ by less are equal: one path bounds both, and its time grows with n.
constexpr double kRounding = 1e-9;

double Elements(const Shape& shape) {
  double product = 1.0;
  for (int i = 0; i < shape.rank(); ++i) product *= static_cast<double>(shape[i]);
  return product;
}

int LayersWith(const ModelSpec& spec, LayerSet set) {
  if (set == LayerSet::kNone) return 1;
  int count = 0;
  for (int layer = 0; layer < spec.num_layers; ++layer) count += spec.HasLayer(set, layer) ? 1 : 0;
  return count;
}

double KvElements(const AttentionSpec& attention) {
  if (attention.kind == AttentionKind::kLatent) {
    return attention.latent.kv_rank + attention.latent.rope_dim;
  }
  return 2.0 * attention.num_kv_heads * attention.head_dim;
}

double SequenceNeeds(const ModelFootprint& model, const OffloadRequest& request) {
  return request.context * model.kv_bytes + model.sequence_bytes;
}

// Without a sequence and without a cache.
double FixedNeeds(const ModelFootprint& model) {
  return model.resident_bytes + kTransferSlots * model.expert_bytes;
}

int AllExperts(const ModelFootprint& model) {
  return model.moe_layers * model.num_experts;
}

// Share of the experts that lie on disk only.
double DiskShare(const ModelFootprint& model, const OffloadRequest& request) {
  const double all = AllExperts(model) * model.expert_bytes;
  return std::max(0.0, 1.0 - request.ram_budget / all);
}

void CheckProfile(const ModelFootprint& model, const HardwareProfile& profile,
                  const OffloadRequest& request) {
  const HardwareFigure needed[] = {&HardwareProfile::gpu_bandwidth, &HardwareProfile::gpu_flops,
                                   &HardwareProfile::host_bandwidth,
                                   &HardwareProfile::link_bandwidth};
  RequireFigures(profile, needed, "the cost of a step");
  if (DiskShare(model, request) == 0.0) return;
  const HardwareFigure disk[] = {&HardwareProfile::disk_bandwidth};
  RequireFigures(profile, disk, "a model whose experts do not all fit in host memory");
}

void SetStepTime(OffloadStep& step) {
  const std::pair<double, const char*> paths[] = {{step.link_s, "link"},
                                                  {step.host_s, "host memory"},
                                                  {step.disk_s, "disk"},
                                                  {step.gpu_memory_s, "GPU memory"},
                                                  {step.gpu_compute_s, "GPU compute"}};
  const auto& slowest =
      *std::max_element(std::begin(paths), std::end(paths),
                        [](const auto& a, const auto& b) { return a.first < b.first; });
  step.step_s = slowest.first;
  step.bound = slowest.second;
  step.tokens_per_s = step.sequences / step.step_s;
}

// Has the CPU compute some of `experts` missing ones, of `rows` tokens each, so that it and the
// link are through at the same time; where that is sooner, which it is not where the link takes
// most of what host memory gives.
void ShareWithCpu(const ModelFootprint& model, const HardwareProfile& profile, double cpu_flops,
                  double experts, double rows, OffloadStep& step) {
  const double link = model.expert_bytes / *profile.link_bandwidth;
  const double cpu =
      std::max(model.expert_bytes / *profile.host_bandwidth, rows * model.expert_flops / cpu_flops);
  const double link_s = step.link_s - experts * link * link / (link + cpu);
  const double host_s = step.host_s / kBesideLink;
  if (std::max(link_s, host_s) >= std::max(step.link_s, step.host_s)) return;
  step.link_s = link_s;
  step.host_s = host_s;
}

// What a step costs that takes prompts in `prompt_share` of the layers.
void SetCosts(const ModelFootprint& model, const HardwareProfile& profile,
              const OffloadRequest& request, double prompt_share, OffloadStep& step) {
  const double decoding = model.moe_layers * (1.0 - prompt_share) * step.distinct_experts;
  const double prompts = model.moe_layers * prompt_share * model.num_experts;
  const double expert_bytes = (decoding + prompts) * model.expert_bytes;
  const double missing = 1.0 - step.hit_rate;
  const double moved = expert_bytes * missing;
  const double from_disk = moved * DiskShare(model, request);
  const double kv = static_cast<double>(step.sequences) * request.context * model.kv_bytes;
  step.link_s = moved / *profile.link_bandwidth;
  step.host_s = moved / *profile.host_bandwidth;
  if (request.cpu_flops) {
    const double rows = step.sequences * model.top_k / step.distinct_experts;
    ShareWithCpu(model, profile, *request.cpu_flops, decoding * missing, rows, step);
  }
  step.disk_s = from_disk == 0.0 ? 0.0 : from_disk / *profile.disk_bandwidth;
  step.gpu_memory_s = (model.resident_read_bytes + expert_bytes + kv) / *profile.gpu_bandwidth;
  step.gpu_compute_s = step.sequences * model.token_flops / *profile.gpu_flops;
  SetStepTime(step);
}

[[noreturn]] void FailMemory(const ModelFootprint& model, const OffloadRequest& request) {
  const double needed = FixedNeeds(model) + SequenceNeeds(model, request);
  const auto bytes = [](double value) { return FormatBytes(static_cast<uint64_t>(value)); };
  throw Error(ErrorCode::kResourceExhausted,
              "does not fit: short by " + bytes(needed - request.vram_budget) +
                  " of GPU memory. One sequence of " + std::to_string(request.context) +
                  " positions needs " + bytes(needed) + " (" + bytes(model.resident_bytes) +
                  " of weights beside the experts), the budget is " + bytes(request.vram_budget) +
                  "; lower the context or the bits of a weight");
}

}  // namespace

ModelFootprint FootprintOf(const ModelSpec& spec, double expert_bits, double resident_bits,
                           double kv_bits) {
  ModelFootprint model{.moe_layers = spec.NumMoeLayers(),
                       .num_experts = spec.moe.num_experts,
                       .top_k = spec.moe.top_k};
  if (model.moe_layers == 0) {
    throw Error(ErrorCode::kInvalidArgument,
                "the model (" + spec.family + ") has no layer with experts; offload is planned " +
                    "for models that have");
  }
  double expert_weights = 0.0;
  double resident_weights = 0.0;
  double read_weights = 0.0;  // of the resident ones
  for (const TensorRule& rule : spec.tensors) {
    const double elements = Elements(rule.shape);
    if (rule.PerExpert()) {
      expert_weights += elements;
      continue;
    }
    const double all = elements * LayersWith(spec, rule.layers);
    resident_weights += all;
    const bool is_lookup = rule.role == TensorRole::kEmbedding && !spec.tie_embeddings;
    if (!is_lookup) read_weights += all;
  }
  model.expert_bytes = expert_weights * expert_bits / 8.0;
  model.resident_bytes = resident_weights * resident_bits / 8.0;
  model.resident_read_bytes = read_weights * resident_bits / 8.0;
  model.kv_bytes = KvElements(spec.attention) * spec.num_layers * kv_bits / 8.0;
  // One row of logits and a few of hidden states, f32.
  model.sequence_bytes = 4.0 * (spec.vocab_size + 8.0 * spec.hidden_size);
  model.token_flops = 2.0 * (read_weights + expert_weights * model.top_k * model.moe_layers);
  model.expert_flops = 2.0 * expert_weights;
  return model;
}

double AlikeHitRate(double cached, double all, double chance, bool evicts_lru) {
  if (!evicts_lru || cached >= all) return cached / all;
  // After r runs of its layer the cache has taken in all * (1 - (1 - chance)^r) others.
  if (chance >= 1.0) return 0.0;
  const double runs = std::floor(std::log1p(-cached / all) / std::log1p(-chance));
  return 1.0 - std::pow(1.0 - chance, runs);
}

int CacheCapacity(const ModelFootprint& model, const OffloadRequest& request, int sequences) {
  if (request.slots) {
    const int slots = request.slots(sequences);
    // Where every expert has a slot, none is needed to bring one.
    if (slots >= AllExperts(model)) return AllExperts(model);
    return slots < kTransferSlots ? -1 : slots - kTransferSlots;
  }
  const double left =
      request.vram_budget - FixedNeeds(model) - sequences * SequenceNeeds(model, request);
  if (left < 0.0) return -1;
  return static_cast<int>(
      std::min(static_cast<double>(AllExperts(model)), std::floor(left / model.expert_bytes)));
}

OffloadStep CostStep(const ModelFootprint& model, const HardwareProfile& profile,
                     const OffloadRequest& request, int sequences, int cached_experts) {
  CheckProfile(model, profile, request);
  SLUICE_CHECK_GE(sequences, 1);
  SLUICE_CHECK(cached_experts >= 0 && cached_experts <= AllExperts(model));
  OffloadStep step{.sequences = sequences, .cached_experts = cached_experts};
  step.distinct_experts = ExpectedDistinctExperts(model.num_experts, model.top_k, sequences);
  step.hit_rate = request.hit_rates
                      ? request.hit_rates->At(cached_experts)
                      : AlikeHitRate(cached_experts, AllExperts(model),
                                     step.distinct_experts / model.num_experts, request.evicts_lru);
  SetCosts(model, profile, request, request.prompt_share, step);
  step.beside_prompt_s = step.step_s;
  step.beside_prompt_bound = step.bound;
  SetCosts(model, profile, request, 0.0, step);
  return step;
}

OffloadPlan SolveOffload(const ModelFootprint& model, const HardwareProfile& profile,
                         const OffloadRequest& request) {
  CheckProfile(model, profile, request);
  if (CacheCapacity(model, request, 1) < 0) FailMemory(model, request);
  OffloadPlan plan;
  for (int n = 1; n <= request.max_sequences; ++n) {
    // More cache never costs time, so that the best step of n is that with the most.
    const int cached = CacheCapacity(model, request, n);
    if (cached < 0) break;
    const OffloadStep step = CostStep(model, profile, request, n, cached);
    plan.memory_limit = n;
    if (n == 1) plan.one = step;
    if (request.max_step_s && step.beside_prompt_s > *request.max_step_s) continue;
    const double missing_s = std::max({step.link_s, step.host_s, step.disk_s});
    if (missing_s < step.step_s && !plan.hides_link) plan.hides_link = n;
    if (step.tokens_per_s > plan.best.tokens_per_s * (1.0 + kRounding)) plan.best = step;
  }
  if (plan.best.sequences > 0) return plan;
  throw Error(ErrorCode::kResourceExhausted,
              fmt::format("a step of one sequence takes {:.1f} ms{}, bound by the {}; the limit is "
                          "{:.1f} ms: raise it, or the budget of GPU memory{}",
                          plan.one.beside_prompt_s * 1e3,
                          request.prompt_share > 0.0 ? " beside a prompt" : "",
                          plan.one.beside_prompt_bound, *request.max_step_s * 1e3,
                          request.cpu_flops ? "" : ", or add --cpu-experts"));
}

double PromptShare(const ModelFootprint& model, int num_layers, int groups) {
  const int largest = (num_layers + groups - 1) / groups;
  return std::min(1.0, static_cast<double>(largest) / model.moe_layers);
}

int LayerGroupsWithin(const ModelFootprint& model, const HardwareProfile& profile,
                      OffloadRequest request, const OffloadStep& step, int num_layers, int least,
                      int most) {
  int groups = least;
  for (; groups < most; ++groups) {
    request.prompt_share = PromptShare(model, num_layers, groups);
    const OffloadStep beside =
        CostStep(model, profile, request, step.sequences, step.cached_experts);
    if (beside.beside_prompt_s <= *request.max_step_s) break;
  }
  return groups;
}

}  // namespace sluice
