#include "arch/model_spec.h"

#include <algorithm>

#include "base/check.h"

namespace sluice {
namespace {

void Replace(std::string& text, const std::string& placeholder, int value) {
  const size_t at = text.find(placeholder);
  if (at != std::string::npos) text.replace(at, placeholder.size(), std::to_string(value));
}

// Layers that have the rule's tensor, 1 for a tensor outside the layers.
uint64_t LayerCount(const ModelSpec& spec, const TensorRule& rule) {
  if (rule.layers == LayerSet::kNone) return 1;
  uint64_t count = 0;
  for (int layer = 0; layer < spec.num_layers; ++layer) {
    if (spec.HasLayer(rule.layers, layer)) ++count;
  }
  return count;
}

// Sums elements over the table; `experts` is how many tensors a per-expert rule counts for.
uint64_t CountElements(const ModelSpec& spec, int experts, bool with_embedding) {
  uint64_t total = 0;
  for (const TensorRule& rule : spec.tensors) {
    if (rule.role == TensorRole::kEmbedding && !with_embedding) continue;
    const uint64_t copies = rule.PerExpert() ? static_cast<uint64_t>(experts) : 1;
    total += LayerCount(spec, rule) * copies * static_cast<uint64_t>(rule.shape.NumElements());
  }
  return total;
}

}  // namespace

int ModelSpec::NumMoeLayers() const {
  return static_cast<int>(std::count(ffn.begin(), ffn.end(), FfnKind::kMoe));
}

bool ModelSpec::HasLayer(LayerSet set, int layer) const {
  SLUICE_CHECK_LT(static_cast<size_t>(layer), ffn.size());
  switch (set) {
    case LayerSet::kNone:
      return false;
    case LayerSet::kAll:
      return true;
    case LayerSet::kDense:
      return ffn[layer] == FfnKind::kDense;
    case LayerSet::kMoe:
      return ffn[layer] == FfnKind::kMoe;
  }
  return false;
}

std::string TensorName(const TensorRule& rule, int layer, int expert) {
  std::string name = rule.name;
  Replace(name, "{layer}", layer);
  Replace(name, "{expert}", expert);
  return name;
}

const TensorRule* FindRule(const ModelSpec& spec, TensorRole role) {
  const auto found = std::find_if(spec.tensors.begin(), spec.tensors.end(),
                                  [&](const TensorRule& rule) { return rule.role == role; });
  return found == spec.tensors.end() ? nullptr : &*found;
}

Shape TensorShape(const ModelSpec& spec, const TensorRule& rule) {
  Shape shape = rule.shape;
  if (rule.stacked_experts) shape[0] *= spec.moe.num_experts;
  return shape;
}

const char* TensorRoleName(TensorRole role) {
  switch (role) {
    case TensorRole::kEmbedding:
      return "embedding";
    case TensorRole::kFinalNorm:
      return "final_norm";
    case TensorRole::kLmHead:
      return "lm_head";
    case TensorRole::kInputNorm:
      return "input_norm";
    case TensorRole::kQ:
      return "q";
    case TensorRole::kK:
      return "k";
    case TensorRole::kV:
      return "v";
    case TensorRole::kO:
      return "o";
    case TensorRole::kQkv:
      return "qkv";
    case TensorRole::kQBias:
      return "q_bias";
    case TensorRole::kKBias:
      return "k_bias";
    case TensorRole::kVBias:
      return "v_bias";
    case TensorRole::kOBias:
      return "o_bias";
    case TensorRole::kQNorm:
      return "q_norm";
    case TensorRole::kKNorm:
      return "k_norm";
    case TensorRole::kQA:
      return "q_a";
    case TensorRole::kQABias:
      return "q_a_bias";
    case TensorRole::kQANorm:
      return "q_a_norm";
    case TensorRole::kQB:
      return "q_b";
    case TensorRole::kKvA:
      return "kv_a";
    case TensorRole::kKvABias:
      return "kv_a_bias";
    case TensorRole::kKvANorm:
      return "kv_a_norm";
    case TensorRole::kKvB:
      return "kv_b";
    case TensorRole::kPostAttentionNorm:
      return "post_attention_norm";
    case TensorRole::kGate:
      return "gate";
    case TensorRole::kUp:
      return "up";
    case TensorRole::kDown:
      return "down";
    case TensorRole::kGateBias:
      return "gate_bias";
    case TensorRole::kUpBias:
      return "up_bias";
    case TensorRole::kDownBias:
      return "down_bias";
    case TensorRole::kRouter:
      return "router";
    case TensorRole::kRouterBias:
      return "router_bias";
    case TensorRole::kExpertGate:
      return "expert_gate";
    case TensorRole::kExpertUp:
      return "expert_up";
    case TensorRole::kExpertDown:
      return "expert_down";
    case TensorRole::kSharedGate:
      return "shared_gate";
    case TensorRole::kSharedUp:
      return "shared_up";
    case TensorRole::kSharedDown:
      return "shared_down";
    case TensorRole::kSharedExpertGate:
      return "shared_expert_gate";
  }
  return "unknown";
}

std::vector<DummySource::Listed> ListTensors(const ModelSpec& spec) {
  std::vector<DummySource::Listed> list;
  for (const TensorRule& rule : spec.tensors) {
    if (rule.layers == LayerSet::kNone) {
      list.push_back({rule.name, rule.shape});
      continue;
    }
    const bool named = rule.PerExpert() && !rule.stacked_experts;
    const int experts = named ? spec.moe.num_experts : 1;
    for (int layer = 0; layer < spec.num_layers; ++layer) {
      if (!spec.HasLayer(rule.layers, layer)) continue;
      for (int expert = 0; expert < experts; ++expert) {
        list.push_back({TensorName(rule, layer, expert), TensorShape(spec, rule)});
      }
    }
  }
  return list;
}

uint64_t ParameterCount(const ModelSpec& spec) {
  return CountElements(spec, spec.moe.num_experts, true);
}

uint64_t ActiveParameterCount(const ModelSpec& spec) {
  return CountElements(spec, spec.moe.top_k, true);
}

uint64_t WeightBytes(const ModelSpec& spec, DType dtype) {
  return ParameterCount(spec) * SizeOf(dtype);
}

uint64_t ActiveBytesPerToken(const ModelSpec& spec, DType dtype) {
  const uint64_t row = spec.tie_embeddings ? 0 : static_cast<uint64_t>(spec.hidden_size);
  return (CountElements(spec, spec.moe.top_k, spec.tie_embeddings) + row) * SizeOf(dtype);
}

}  // namespace sluice
