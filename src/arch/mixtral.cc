#include "arch/config_reader.h"
#include "arch/families.h"
#include "arch/tensor_tables.h"

namespace sluice::arch {

// Mixtral of experts (arXiv:2401.04088): every layer has experts, whose weights add up to 1.
ModelSpec MixtralSpec(const HfConfig& config) {
  ModelSpec spec{.family = "mixtral"};
  ReadCommon(config, spec, 1e-5);
  ReadAttention(config, 8, spec, {.rope_theta = 1e6});
  spec.ffn.assign(LayersToDescribe(spec), FfnKind::kMoe);
  ReadWindows(config, WindowRule::kWhereSet, spec);
  spec.moe = {.num_experts = ReadInt(config, "num_experts", 8),
              .top_k = ReadInt(config, "num_experts_per_tok", 2),
              .expert_ffn = ReadInt(config, "intermediate_size"),
              .renormalize_topk = true};

  AddGlobalTensors(spec);
  AddAttentionTensors(spec);
  AddMoeTensors(spec, {.block = "block_sparse_moe.", .gate = "w1", .up = "w3", .down = "w2"});
  return spec;
}

}  // namespace sluice::arch
