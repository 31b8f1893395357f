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

// Router and experts of the MoE layers, "mlp.gate" and "mlp.experts.{expert}", and the shared
// expert, whose names begin with `shared`, with its gate where the spec has them.
void AddMoeTensors(ModelSpec& spec, const std::string& shared = "mlp.shared_expert.");

}  // namespace sluice::arch
