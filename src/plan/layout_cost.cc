#include "plan/layout_cost.h"

#include <algorithm>
#include <cmath>

#include "plan/batch_theory.h"

namespace sluice {
namespace {

constexpr double kActivationBytes = 2.0;  // bf16
// What a GPU's driver context, kernels and communication library take before any model.
constexpr double kRuntimeBytes = 1e9;

double LayersOf(const ModelSpec& spec, LayerSet set) {
  if (set == LayerSet::kNone) return 1.0;
  double count = 0.0;
  for (int layer = 0; layer < spec.num_layers; ++layer) count += spec.HasLayer(set, layer) ? 1 : 0;
  return count;
}

// The share of a tensor that one of `tp` GPUs holds. Keys and values of fewer heads than GPUs are
// held by several.
double ShareOf(const ModelSpec& spec, const TensorRule& rule, int tp) {
  if (rule.shard == ShardAxis::kReplicate) return 1.0;
  const double cut = 1.0 / tp;
  if (spec.attention.kind == AttentionKind::kLatent) return cut;
  const double kv_cut = 1.0 / std::min(tp, std::max(1, spec.attention.num_kv_heads));
  switch (rule.role) {
    case TensorRole::kK:
    case TensorRole::kV:
    case TensorRole::kKBias:
    case TensorRole::kVBias:
      return kv_cut;
    case TensorRole::kQkv: {
      const double q = spec.attention.num_heads;
      const double kv = 2.0 * spec.attention.num_kv_heads;
      return (q * cut + kv * kv_cut) / (q + kv);
    }
    default:
      return cut;
  }
}

double KvElements(const AttentionSpec& attention, int tp) {
  if (attention.kind == AttentionKind::kLatent) {
    return attention.latent.kv_rank + attention.latent.rope_dim;  // whole on every GPU
  }
  const double heads = std::max(1.0, static_cast<double>(attention.num_kv_heads) / tp);
  return 2.0 * heads * attention.head_dim;
}

}  // namespace

LayoutCost::LayoutCost(const ModelSpec& spec, const HardwareProfile& profile,
                       const PlacementRequest& request, const GpuLayout& layout)
    : spec_(spec),
      profile_(profile),
      request_(request),
      layout_(layout),
      moe_layers_(spec.NumMoeLayers()),
      token_bytes_(kActivationBytes * spec.hidden_size) {
  for (const TensorRule& rule : spec.tensors) {
    const auto elements = static_cast<double>(rule.shape.NumElements());
    if (rule.PerExpert()) {
      expert_weights_ += elements;
      continue;
    }
    const double held = elements * LayersOf(spec, rule.layers) * ShareOf(spec, rule, layout.tp);
    resident_ += held * request.weight_bits / 8.0;
    if (rule.role == TensorRole::kEmbedding && !spec.tie_embeddings) continue;
    resident_read_ += held * request.weight_bits / 8.0;
    resident_flops_ += 2.0 * held;
  }
  const int experts = spec.moe.num_experts;
  const int slots = (experts + request.gpus - 1) / request.gpus + layout.extra;
  experts_held_ = layout.spread ? slots : static_cast<double>(experts) / layout.tp;
  kv_position_ = KvElements(spec.attention, layout.tp) * spec.num_layers * request.kv_bits / 8.0;
}

double LayoutCost::Imbalance() const {
  if (!layout_.spread) return 1.0;
  return layout_.extra > 0 ? request_.replicated_imbalance : request_.imbalance;
}

GpuMemory LayoutCost::Memory(int sequences, double context) const {
  const double groups = layout_.dp;
  const double own = std::ceil(sequences / groups);  // of a group
  const double tokens = request_.step_tokens;
  const double ffn_cut = layout_.spread ? 1.0 : layout_.tp;
  // Rows of a layer's experts: every token of the group top_k times, or this GPU's share of all.
  const double rows = tokens * spec_.moe.top_k * (layout_.spread ? Imbalance() / layout_.tp : 1.0);
  const double dense = spec_.dense.intermediate + spec_.moe.shared_ffn;
  const double attention =
      static_cast<double>(spec_.attention.num_heads) * spec_.attention.head_dim;
  GpuMemory memory;
  memory.weights =
      resident_ + moe_layers_ * experts_held_ * expert_weights_ * request_.expert_bits / 8.0;
  memory.kv = own * context * kv_position_;
  memory.activations =
      kActivationBytes *
          (tokens * (4.0 * spec_.hidden_size + (3.0 * attention + 2.0 * dense) / layout_.tp) +
           rows * (2.0 * spec_.hidden_size + 2.0 * spec_.moe.expert_ffn / ffn_cut)) +
      4.0 * own * spec_.vocab_size / layout_.tp;
  if (layout_.tp > 1) memory.buffers += 2.0 * tokens * token_bytes_;
  // Rows that leave and rows that come, before and after the experts.
  if (layout_.spread && layout_.dp > 1) memory.buffers += 4.0 * rows * token_bytes_;
  memory.runtime = kRuntimeBytes;
  return memory;
}

PlacementStep LayoutCost::Prefill() const {
  // A token sees half of the prompt on average, as long as prompt and context allow; all of it
  // where it sees what is behind it too.
  const double tokens = request_.step_tokens;
  const double part = spec_.attention.mask == ops::AttentionMask::kFull ? 1.0 : 0.5;
  const double seen = part * std::min(tokens, static_cast<double>(request_.context));
  const double width = static_cast<double>(spec_.attention.num_heads) * spec_.attention.head_dim;
  const double scores = tokens * seen * 4.0 * width * spec_.num_layers / layout_.tp;
  return Step(tokens, tokens * kv_position_, scores);
}

PlacementStep LayoutCost::Decode(int sequences, double context) const {
  const double own = static_cast<double>(sequences) / layout_.dp;
  const double width = static_cast<double>(spec_.attention.num_heads) * spec_.attention.head_dim;
  const double scores = own * context * 4.0 * width * spec_.num_layers / layout_.tp;
  return Step(own, own * context * kv_position_, scores);
}

PlacementStep LayoutCost::Step(double group_tokens, double kv_bytes, double score_flops) const {
  PlacementStep step{.tokens = group_tokens * layout_.dp};
  const int experts = spec_.moe.num_experts;
  double expert_reads = 0.0;   // whole experts' worth of one layer, on the slowest GPU
  double expert_tokens = 0.0;  // tokens through whole experts' worth
  if (moe_layers_ > 0) {
    const double seen = layout_.spread ? step.tokens : group_tokens;
    const double cut = layout_.spread ? request_.gpus : layout_.tp;
    const double distinct = ExpectedDistinctExperts(experts, spec_.moe.top_k, seen);
    expert_reads = std::min(distinct / cut * Imbalance(), experts_held_);
    expert_tokens = seen * spec_.moe.top_k / cut * Imbalance();
  }
  const double expert_bytes = expert_weights_ * request_.expert_bits / 8.0;
  step.memory_s = (resident_read_ + moe_layers_ * expert_reads * expert_bytes + kv_bytes) /
                  *profile_.gpu_bandwidth;
  step.compute_s = (group_tokens * resident_flops_ +
                    moe_layers_ * expert_tokens * 2.0 * expert_weights_ + score_flops) /
                   *profile_.gpu_flops;
  const Traffic traffic = Communicate(group_tokens);
  step.communication_s = traffic.seconds;
  step.sent_bytes = traffic.bytes;
  step.step_s = std::max(step.memory_s, step.compute_s) + step.communication_s;
  step.tokens_per_s = step.tokens / step.step_s;
  return step;
}

LayoutCost::Traffic LayoutCost::Communicate(double group_tokens) const {
  Traffic sum;
  const auto add = [&](const Traffic& layer, double layers) {
    sum.seconds += layers * layer.seconds;
    sum.bytes += layers * layer.bytes;
  };
  const double dense_layers = spec_.num_layers - moe_layers_;
  if (layout_.tp > 1) {
    add(AllReduce(group_tokens), spec_.num_layers + dense_layers);  // attention; dense layers' FFN
  }
  if (layout_.spread && layout_.dp > 1) {
    const Traffic direct = AllToAll(group_tokens);
    const Traffic gathered = GatherAndScatter(group_tokens);
    add(direct.seconds <= gathered.seconds ? direct : gathered, moe_layers_);
  } else if (layout_.tp > 1) {
    add(AllReduce(group_tokens), moe_layers_);
  }
  return sum;
}

LayoutCost::Traffic LayoutCost::AllReduce(double group_tokens) const {
  // A reduce-scatter and an all-gather of rings.
  const double others = (layout_.tp - 1.0) / layout_.tp;
  const double bytes = 2.0 * others * group_tokens * token_bytes_;
  const bool spans = layout_.tp > GpusPerHost();
  const double bandwidth = spans ? *profile_.network_bandwidth : *profile_.peer_bandwidth;
  const double latency = spans ? request_.network_latency_s : request_.peer_latency_s;
  return {.seconds = bytes / bandwidth + 2.0 * latency, .bytes = bytes};
}

LayoutCost::Traffic LayoutCost::AllToAll(double group_tokens) const {
  // A token is sent once to each GPU that has some of its experts; GPUs of a group share its
  // tokens.
  const double gpus = request_.gpus;
  const double targets = gpus * (1.0 - std::pow(1.0 - 1.0 / gpus, spec_.moe.top_k));
  const double sent = group_tokens / layout_.tp * targets * token_bytes_ / gpus;  // to each GPU
  const double near = sent * (GpusPerHost() - 1.0) * Imbalance();
  const double far = sent * (gpus - GpusPerHost()) * Imbalance();
  Traffic traffic{.seconds = request_.peer_latency_s, .bytes = 2.0 * (near + far)};
  traffic.seconds = near / *profile_.peer_bandwidth + request_.peer_latency_s;
  if (request_.hosts > 1) {
    traffic.seconds = std::max(near / *profile_.peer_bandwidth, far / *profile_.network_bandwidth) +
                      request_.network_latency_s;
  }
  traffic.seconds *= 2.0;  // there and back
  return traffic;
}

LayoutCost::Traffic LayoutCost::GatherAndScatter(double group_tokens) const {
  // Every GPU gets the tokens of all groups; results are summed on the way back.
  const double all = group_tokens * layout_.dp * token_bytes_;
  const double bytes = all * (request_.gpus - 1.0) / request_.gpus;
  const bool spans = request_.hosts > 1;
  const double bandwidth = spans ? *profile_.network_bandwidth : *profile_.peer_bandwidth;
  const double latency = spans ? request_.network_latency_s : request_.peer_latency_s;
  return {.seconds = 2.0 * (bytes / bandwidth + latency), .bytes = 2.0 * bytes};
}

const char* LayoutCost::Exchange(int sequences) const {
  if (request_.gpus == 1 || moe_layers_ == 0) return "none";
  if (!layout_.spread || layout_.dp == 1) return layout_.tp > 1 ? "all-reduce" : "none";
  const double own = static_cast<double>(sequences) / layout_.dp;
  return AllToAll(own).seconds <= GatherAndScatter(own).seconds ? "all-to-all"
                                                                : "all-gather, reduce-scatter";
}

}  // namespace sluice
