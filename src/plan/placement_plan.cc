#include "plan/placement_plan.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/machine.h"
#include "plan/layout_cost.h"

namespace sluice {
namespace {

std::string Bytes(double bytes) {
  return FormatBytes(static_cast<uint64_t>(std::ceil(bytes)));
}

void CheckRequest(const HardwareProfile& profile, const PlacementRequest& request) {
  const bool sound = request.gpus >= 1 && request.hosts >= 1 && request.gpus % request.hosts == 0;
  if (!sound) {
    throw Error(ErrorCode::kInvalidArgument,
                std::to_string(request.gpus) + " GPUs do not divide over " +
                    std::to_string(request.hosts) + " hosts; every host has as many as the others");
  }
  std::vector<HardwareFigure> needed = {&HardwareProfile::gpu_bandwidth,
                                        &HardwareProfile::gpu_flops};
  if (request.gpus / request.hosts > 1) needed.push_back(&HardwareProfile::peer_bandwidth);
  if (request.hosts > 1) needed.push_back(&HardwareProfile::network_bandwidth);
  RequireFigures(profile, needed, "a placement");
}

// Every layout that has so many GPUs.
std::vector<GpuLayout> Layouts(const ModelSpec& spec, const PlacementRequest& request) {
  using enum PlacementStrategy;
  const int gpus = request.gpus;
  std::vector<GpuLayout> layouts = {{.strategy = kData, .dp = gpus}};
  if (gpus == 1) return layouts;
  layouts.push_back({.strategy = kTensor, .tp = gpus});
  if (spec.moe.num_experts == 0) return layouts;
  layouts.push_back({.strategy = kExpert, .tp = gpus, .spread = true});
  layouts.push_back({.strategy = kDataExpert, .dp = gpus, .spread = true});
  for (int tp = 2; tp < gpus; tp *= 2) {
    if (gpus % tp != 0) continue;
    layouts.push_back({.strategy = kHybrid, .tp = tp, .dp = gpus / tp, .spread = true});
  }
  layouts.push_back(
      {.strategy = kReplicated, .dp = gpus, .spread = true, .extra = request.extra_slots});
  return layouts;
}

// Why the model cannot be laid out so; empty when it can.
std::string Refusal(const ModelSpec& spec, const PlacementRequest& request,
                    const GpuLayout& layout) {
  const std::string tp = std::to_string(layout.tp);
  const AttentionSpec& attention = spec.attention;
  if (attention.num_heads % layout.tp != 0) {
    return std::to_string(attention.num_heads) + " heads do not divide over " + tp + " GPUs";
  }
  const int kv_heads = attention.num_kv_heads;
  const bool latent = attention.kind == AttentionKind::kLatent;
  if (!latent && kv_heads % layout.tp != 0 && layout.tp % kv_heads != 0) {
    return std::to_string(kv_heads) + " KV heads divide neither over " + tp +
           " GPUs nor as replicas";
  }
  const int experts = spec.moe.num_experts;
  if (experts == 0) return "";
  if (!layout.spread && spec.moe.expert_ffn % layout.tp != 0) {
    return "experts of width " + std::to_string(spec.moe.expert_ffn) + " are not cut in " + tp;
  }
  if (layout.spread && layout.extra == 0 && experts % request.gpus != 0) {
    return std::to_string(experts) + " experts do not divide over " + std::to_string(request.gpus) +
           " GPUs";
  }
  if (layout.spread && experts < request.gpus) {
    return std::to_string(experts) + " experts are fewer than the GPUs";
  }
  return "";
}

StrategyResult Evaluate(const ModelSpec& spec, const HardwareProfile& profile,
                        const PlacementRequest& request, const GpuLayout& layout) {
  StrategyResult result{.layout = layout, .refused = Refusal(spec, request, layout)};
  if (!result.refused.empty()) return result;
  const LayoutCost cost(spec, profile, request, layout);
  result.memory = cost.Memory(request.sequences, request.context);
  result.short_by = std::max(0.0, result.memory.total() - request.gpu_memory);
  result.exchange = cost.Exchange(request.sequences);
  result.prefill = cost.Prefill();
  result.decode = cost.Decode(request.sequences, request.context);
  // A sequence more in each group takes as much as the one before.
  const double none = cost.Memory(0, request.context).total();
  const double one = cost.Memory(layout.dp, request.context).total() - none;
  const double left = request.gpu_memory - none;
  if (left >= one) {
    result.most_sequences = static_cast<int>(std::min(1e6, std::floor(left / one)) * layout.dp);
  }
  const double rest = request.gpu_memory - cost.Memory(layout.dp, 0.0).total();
  result.longest_context = std::max(0.0, std::floor(rest / cost.KvBytesPerPosition()));
  return result;
}

int QueueDepth(const ModelSpec& spec, const HardwareProfile& profile,
               const PlacementRequest& request, const StrategyResult& best) {
  const LayoutCost cost(spec, profile, request, best.layout);
  std::vector<int> depths;
  for (int depth = 4; depth <= 256 && depth <= best.most_sequences; depth *= 2) {
    depths.push_back(depth);
  }
  if (depths.empty()) return std::max(1, best.most_sequences);
  const auto rate = [&](int depth) { return cost.Decode(depth, request.context).tokens_per_s; };
  double fastest = 0.0;
  for (const int depth : depths) fastest = std::max(fastest, rate(depth));
  return *std::find_if(depths.begin(), depths.end(),
                       [&](int depth) { return rate(depth) >= 0.9 * fastest; });
}

std::string ReasonOf(const StrategyResult& best, const std::vector<StrategyResult>& results) {
  const PlacementStep& step = best.decode;
  const char* bound = step.communication_s > std::max(step.memory_s, step.compute_s)
                          ? "communication"
                          : (step.memory_s >= step.compute_s ? "reading memory" : "computing");
  std::string reason = "decodes fastest of those that fit, bound by " + std::string(bound);
  const StrategyResult* second = nullptr;
  int short_of_memory = 0;
  for (const StrategyResult& other : results) {
    if (&other == &best || !other.refused.empty()) continue;
    if (!other.fits()) {
      ++short_of_memory;
    } else if (second == nullptr || other.decode.tokens_per_s > second->decode.tokens_per_s) {
      second = &other;
    }
  }
  if (second != nullptr) {
    const double times = step.tokens_per_s / second->decode.tokens_per_s;
    reason += "; " + std::to_string(times).substr(0, 4) + "x of " +
              PlacementStrategyName(second->layout.strategy) + ", the next";
  }
  if (short_of_memory > 0) reason += "; " + std::to_string(short_of_memory) + " do not fit";
  return reason;
}

std::string ShortOf(const std::vector<StrategyResult>& results, double gpu_memory) {
  const StrategyResult* nearest = nullptr;
  for (const StrategyResult& result : results) {
    if (!result.refused.empty()) continue;
    if (nearest == nullptr || result.short_by < nearest->short_by) nearest = &result;
  }
  if (nearest == nullptr) return "does not fit: no strategy can cut this model so";
  return "does not fit: short by " + Bytes(nearest->short_by) + " on each GPU of " +
         Bytes(gpu_memory) + " with " + PlacementStrategyName(nearest->layout.strategy) +
         ", which comes nearest";
}

}  // namespace

const char* PlacementStrategyName(PlacementStrategy strategy) {
  switch (strategy) {
    case PlacementStrategy::kData:
      return "data";
    case PlacementStrategy::kTensor:
      return "tensor";
    case PlacementStrategy::kExpert:
      return "expert";
    case PlacementStrategy::kDataExpert:
      return "data+expert";
    case PlacementStrategy::kHybrid:
      return "hybrid";
    case PlacementStrategy::kReplicated:
      return "replicated";
  }
  return "unknown";
}

PlacementPlan PlanPlacement(const ModelSpec& spec, const HardwareProfile& profile,
                            const PlacementRequest& request) {
  CheckRequest(profile, request);
  PlacementPlan plan;
  for (const GpuLayout& layout : Layouts(spec, request)) {
    plan.results.push_back(Evaluate(spec, profile, request, layout));
    const StrategyResult& result = plan.results.back();
    const bool better =
        result.fits() &&
        (!plan.best || result.decode.tokens_per_s > plan.results[*plan.best].decode.tokens_per_s);
    if (better) plan.best = plan.results.size() - 1;
  }
  if (!plan.best) {
    plan.reason = ShortOf(plan.results, request.gpu_memory);
    return plan;
  }
  const StrategyResult& best = plan.results[*plan.best];
  plan.queue_depth = QueueDepth(spec, profile, request, best);
  plan.reason = ReasonOf(best, plan.results);
  return plan;
}

}  // namespace sluice
