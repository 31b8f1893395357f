#include "arch/config_reader.h"
#include "arch/families.h"
#include "arch/tensor_tables.h"

namespace sluice::arch {

// The dense models of Qwen2 (arXiv:2407.10671, section 2.2.1): biases on queries, keys and values.
ModelSpec Qwen2Spec(const HfConfig& config) {
  ModelSpec spec{.family = "qwen2"};
  ReadCommon(config, spec);
  ReadAttention(config, 32, spec);
  spec.attention.qkv_bias = true;
  spec.dense.intermediate = ReadInt(config, "intermediate_size");
  spec.ffn.assign(LayersToDescribe(spec), FfnKind::kDense);
  ReadWindows(config, WindowRule::kFromMaxWindowLayers, spec);

  AddGlobalTensors(spec);
  AddAttentionTensors(spec);
  AddDenseFfnTensors(spec);
  return spec;
}

}  // namespace sluice::arch
