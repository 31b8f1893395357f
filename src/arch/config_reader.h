#pragma once

#include <optional>
#include <string_view>

#include "arch/model_spec.h"
#include "checkpoint/config.h"

// What families share in reading a config.json. Defaults are those of transformers' config classes.
namespace sluice::arch {

// A size in [0, 2^31); the second form gives `fallback` where the key is not set.
int ReadInt(const HfConfig& config, std::string_view key);
int ReadInt(const HfConfig& config, std::string_view key, int fallback);

// Throws Error(kUnsupported): "`key` is VALUE: ADVICE".
[[noreturn]] void RefuseOption(const HfConfig& config, std::string_view key,
                               std::string_view advice);

// Sizes, norms, dtype and the options that no family here supports: hidden_act other than silu,
// quantization_config, layer_types other than full attention, a sliding window in use.
void ReadCommon(const HfConfig& config, ModelSpec& spec);

// The factor by which YaRN (arXiv:2309.00071, section 3.4) raises attention where the context is
// stretched by `factor`: 0.1 * mscale * ln(factor) + 1.
double YarnMscale(double factor, double mscale);

// Frequencies and scaling of the rope, from either dialect, for heads whose rotary part has
// `head_dim` dimensions. YaRN also raises max_positions, which is read before, to the stretched
// context.
void ReadRope(const HfConfig& config, int head_dim, double default_theta, ModelSpec& spec);

// Heads, head_dim, scale and rope. head_dim defaults to hidden_size / num_attention_heads, and
// num_key_value_heads to `default_kv_heads` or, without it, to num_attention_heads.
void ReadAttention(const HfConfig& config, std::optional<int> default_kv_heads, ModelSpec& spec,
                   double default_theta = 10000.0);

// Experts of the MoE layers, and which layers those are: layer i when it is not in mlp_only_layers,
// there are experts and decoder_sparse_step divides i + 1.
void ReadSparseLayers(const HfConfig& config, ModelSpec& spec);

}  // namespace sluice::arch
