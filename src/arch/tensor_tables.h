#pragma once

#include <string>
#include <vector>

#include "arch/model_spec.h"

// Lines of the tensor table that families share, named as transformers names them. Each reads its
// shapes from the spec's dimensions, which are filled in before.
namespace sluice::arch {

// Embedding, final norm and, unless tied, the head. Also notes what a checkpoint may hold besides.
void AddGlobalTensors(ModelSpec& spec);

// Both norms of a layer, q, k, v and o with the biases and the q/k norms that the spec has.
void AddAttentionTensors(ModelSpec& spec);

// As AddAttentionTensors, for AttentionKind::kLatent.
void AddLatentAttentionTensors(ModelSpec& spec);

// gate, up and down of the dense layers, with biases where the spec has them.
void AddDenseFfnTensors(ModelSpec& spec);

// What a family calls its MoE block and an expert's matrices.
struct MoeNames {
  std::string block = "mlp.";
  std::string gate = "gate_proj";
  std::string up = "up_proj";
  std::string down = "down_proj";
  std::string shared = "shared_expert.";
};

// Router and experts of the MoE layers, "mlp.gate" and "mlp.experts.{expert}", and the shared
// expert with its gate where the spec has them.
void AddMoeTensors(ModelSpec& spec, const MoeNames& names = {});

}  // namespace sluice::arch
