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

// Refuses a key that is set, that no getter was asked for and that is not known to change nothing.
// SpecFromConfig does so for the config itself, a family for the objects inside.
void RefuseUnknownKeys(const HfConfig& config);

// How the weights are stored: dtype, tied embeddings, quantization_config.
void ReadStorage(const HfConfig& config, ModelSpec& spec);

// Sizes, the RMS norms' eps and storage. Refuses a hidden_act other than silu.
void ReadCommon(const HfConfig& config, ModelSpec& spec, double default_eps = 1e-6);

// The factor by which YaRN (arXiv:2309.00071, section 3.4) raises attention where the context is
// stretched by `factor`: 0.1 * mscale * ln(factor) + 1.
double YarnMscale(double factor, double mscale);

// Frequencies and scaling of the rope, from either dialect, for heads whose rotary part has
// `head_dim` dimensions. YaRN also raises max_positions, which is read before, to the stretched
// context.
void ReadRope(const HfConfig& config, int head_dim, double default_theta, ModelSpec& spec);

// What a family takes where its config says nothing.
struct AttentionDefaults {
  double rope_theta = 10000.0;
  int head_dim = 0;  // 0: hidden_size / num_attention_heads
};

// Heads, head_dim, scale and rope. num_key_value_heads defaults to `default_kv_heads` or, without
// it, to num_attention_heads.
void ReadAttention(const HfConfig& config, std::optional<int> default_kv_heads, ModelSpec& spec,
                   const AttentionDefaults& defaults = {});

// Which layers have a sliding window where layer_types does not say.
enum class WindowRule {
  kNever,
  kWhereSet,    // every layer, if sliding_window is set
  kEveryLayer,  // this and the next: if use_sliding_window is true
  kFromMaxWindowLayers,
  kEvenBelowMaxWindowLayers,
};

// Sliding windows; spec.ffn is filled in before.
void ReadWindows(const HfConfig& config, WindowRule rule, ModelSpec& spec);

// spec.num_layers, or a bound where Validate refuses it: such layers are not worth their memory.
int LayersToDescribe(const ModelSpec& spec);

// Experts of the MoE layers, and which layers those are: layer i when it is not in mlp_only_layers,
// there are experts and decoder_sparse_step divides i + 1.
void ReadSparseLayers(const HfConfig& config, ModelSpec& spec);

}  // namespace sluice::arch
