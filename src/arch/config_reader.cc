#include "arch/config_reader.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace sluice::arch {
namespace {

int CheckedInt(const HfConfig& config, std::string_view key, int64_t value) {
  if (value < 0 || value > std::numeric_limits<int>::max()) {
    throw Error(ErrorCode::kInvalidArgument, config.origin() + ": \"" + std::string(key) +
                                                 "\" is " + std::to_string(value) +
                                                 ", expected an integer in [0, 2147483647]");
  }
  return static_cast<int>(value);
}

DType ReadDType(const HfConfig& config, std::string_view key) {
  const std::string name = config.OptString(key).value_or("float32");
  if (name == "float32") return DType::kF32;
  if (name == "bfloat16") return DType::kBF16;
  if (name == "float16") return DType::kF16;
  RefuseOption(config, key, "float32, bfloat16 and float16 are supported");
}

double Positive(const HfConfig& parameters, std::string_view key) {
  const double value = parameters.Float(key);
  if (!(value > 0.0) || !std::isfinite(value)) RefuseOption(parameters, key, "expected above 0");
  return value;
}

double Positive(const HfConfig& parameters, std::string_view key, double fallback) {
  // transformers takes 0 as not set.
  const bool set = parameters.OptFloat(key).value_or(0.0) != 0.0;
  return set ? Positive(parameters, key) : fallback;
}

// Context before it was stretched: a key of the scaling, of the config, or what the config has now.
int OriginalPositions(const HfConfig& config, const HfConfig& parameters, int max_positions) {
  const int own = ReadInt(parameters, "original_max_position_embeddings", max_positions);
  return ReadInt(config, "original_max_position_embeddings", own);
}

void ReadYarn(const HfConfig& config, const HfConfig& parameters, ModelSpec& spec) {
  ops::RopeDesc& rope = spec.attention.rope;
  rope.scaling = ops::RopeScaling::kYarn;
  rope.original_positions = OriginalPositions(config, parameters, spec.max_positions);
  const double stretch =
      static_cast<double>(spec.max_positions) / std::max(1, rope.original_positions);
  rope.factor = Positive(parameters, "factor", stretch);
  rope.beta_fast = Positive(parameters, "beta_fast", 32.0);
  rope.beta_slow = Positive(parameters, "beta_slow", 1.0);
  rope.truncate = parameters.OptBool("truncate").value_or(true);
  const double mscale = parameters.OptFloat("mscale").value_or(0.0);
  const double mscale_all_dim = parameters.OptFloat("mscale_all_dim").value_or(0.0);
  const double factor =
      mscale != 0.0 && mscale_all_dim != 0.0
          ? YarnMscale(rope.factor, mscale) / YarnMscale(rope.factor, mscale_all_dim)
          : YarnMscale(rope.factor, 1.0);
  rope.attention_factor = parameters.OptFloat("attention_factor").value_or(factor);
  // A config that stretches an older one by hand often leaves its max_position_embeddings alone.
  const double stretched = std::floor(rope.original_positions * rope.factor);
  if (stretched < 1e9)
    spec.max_positions = std::max(spec.max_positions, static_cast<int>(stretched));
}

void ReadLlama3(const HfConfig& config, const HfConfig& parameters, ModelSpec& spec) {
  ops::RopeDesc& rope = spec.attention.rope;
  rope.scaling = ops::RopeScaling::kWavelength;
  rope.original_positions = OriginalPositions(config, parameters, spec.max_positions);
  rope.factor = Positive(parameters, "factor");
  rope.low_freq_factor = Positive(parameters, "low_freq_factor");
  rope.high_freq_factor = Positive(parameters, "high_freq_factor");
}

// Blocks of `weight_block_size` [rows, columns].
BlockScaledFormat ReadBlocks(const HfConfig& config, const HfConfig& quantization) {
  const std::vector<int64_t> size = quantization.Has("weight_block_size")
                                        ? quantization.IntList("weight_block_size")
                                        : std::vector<int64_t>();
  const auto fits = [](int64_t value) { return value >= 1 && value <= 1 << 20; };
  if (size.size() != 2 || !fits(size[0]) || !fits(size[1])) {
    RefuseOption(
        config, "quantization_config",
        "fp8 needs \"weight_block_size\": [rows, columns], with a scale for each block; one "
        "scale for a whole tensor is not supported");
  }
  return {.dtype = DType::kF8E4M3,
          .block_rows = static_cast<int>(size[0]),
          .block_columns = static_cast<int>(size[1])};
}

// Weights of fp8 as DeepSeek and Qwen publish them. Which tensors are stored so, their files say.
void ReadQuantization(const HfConfig& config, ModelSpec& spec) {
  const std::optional<HfConfig> quantization = config.OptObject("quantization_config");
  if (!quantization) return;
  const std::string method = quantization->OptString("quant_method").value_or("");
  if (method != "fp8") {
    RefuseOption(
        config, "quantization_config",
        "of the methods only \"fp8\" is supported, e4m3 weights with a scale for each block; "
        "use such a checkpoint or the unquantised one");
  }
  if (quantization->OptString("fmt").value_or("e4m3") != "e4m3") {
    RefuseOption(config, "quantization_config", "\"fmt\" should be \"e4m3\"");
  }
  // How activations would be quantised. They are not: the weights are de-quantised instead.
  if (quantization->OptString("activation_scheme").value_or("dynamic") != "dynamic") {
    RefuseOption(
        config, "quantization_config",
        "\"activation_scheme\" should be \"dynamic\": stored scales of activations are not "
        "supported");
  }
  // Scales that are powers of two (ue8m0) are stored as f32 all the same.
  quantization->OptString("scale_fmt");
  for (const char* key : {"modules_to_not_convert", "ignored_layers"}) {
    if (quantization->Has(key)) quantization->StringList(key);
  }
  spec.block_scaled = ReadBlocks(config, *quantization);
  if (!quantization->UnreadKeys().empty()) {
    RefuseOption(config, "quantization_config",
                 "\"" + quantization->UnreadKeys().front() + "\" is not supported");
  }
}

// The types of the layers as the config lists them, one or more for each layer; empty where it does
// not.
std::vector<std::string> ReadLayerTypes(const HfConfig& config, int num_layers) {
  if (!config.Has("layer_types")) return {};
  std::vector<std::string> types = config.StringList("layer_types");
  for (const std::string& type : types) {
    if (type != "full_attention" && type != "sliding_attention") {
      RefuseOption(config, "layer_types",
                   "\"full_attention\" and \"sliding_attention\" are supported");
    }
  }
  if (std::ssize(types) < num_layers) {
    RefuseOption(config, "layer_types",
                 "expected one for each of " + std::to_string(num_layers) + " layers");
  }
  return types;
}

bool IsWindowed(WindowRule rule, int layer, int max_window_layers) {
  switch (rule) {
    case WindowRule::kNever:
      return false;
    case WindowRule::kWhereSet:
    case WindowRule::kEveryLayer:
      return true;
    case WindowRule::kFromMaxWindowLayers:
      return layer >= max_window_layers;
    case WindowRule::kEvenBelowMaxWindowLayers:
      return layer % 2 == 0 && layer < max_window_layers;
  }
  return false;
}

}  // namespace

double YarnMscale(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

void ReadRope(const HfConfig& config, int head_dim, double default_theta, ModelSpec& spec) {
  ops::RopeDesc& rope = spec.attention.rope;
  rope.theta = default_theta;
  double rotary_share = config.OptFloat("partial_rotary_factor").value_or(1.0);
  const std::optional<HfConfig> parameters = config.OptObject("rope_parameters");
  if (parameters) {
    rope.theta = parameters->OptFloat("rope_theta").value_or(default_theta);
    rotary_share = parameters->OptFloat("partial_rotary_factor").value_or(rotary_share);
    const std::string type = parameters->OptString("rope_type").value_or("default");
    if (type == "linear") {
      rope.scaling = ops::RopeScaling::kLinear;
      rope.factor = Positive(*parameters, "factor");
    } else if (type == "yarn") {
      ReadYarn(config, *parameters, spec);
    } else if (type == "llama3") {
      ReadLlama3(config, *parameters, spec);
    } else if (type != "default") {
      RefuseOption(config, "rope_parameters",
                   "of the rope types \"default\", \"linear\", \"yarn\" and \"llama3\" are "
                   "supported, not \"" +
                       type +
                       "\" (a scaling type, also written rope_scaling, "
                       "changes every position)");
    }
    if (!parameters->UnreadKeys().empty()) {
      RefuseOption(config, "rope_parameters",
                   "\"" + parameters->UnreadKeys().front() +
                       "\" is not supported with the rope "
                       "type \"" +
                       type + "\"");
    }
  }
  if (!(rotary_share > 0.0 && rotary_share <= 1.0)) {
    RefuseOption(config, "partial_rotary_factor", "expected above 0 and at most 1");
  }
  rope.rotary_dim = static_cast<int>(head_dim * rotary_share);
  rope.frequency_dtype = ReadDType(config, "rope_frequency_dtype");
}

void ReadWindows(const HfConfig& config, WindowRule rule, ModelSpec& spec) {
  const std::vector<std::string> types = ReadLayerTypes(config, spec.num_layers);
  const bool listed = std::find(types.begin(), types.end(), "sliding_attention") != types.end();
  const bool takes_list =
      rule == WindowRule::kFromMaxWindowLayers || rule == WindowRule::kEvenBelowMaxWindowLayers;
  if (listed && !takes_list) {
    RefuseOption(config, "layer_types", "only \"full_attention\" is supported in this family");
  }
  const bool set = config.Has("sliding_window");
  const bool flag =
      config.OptBool("use_sliding_window").value_or(rule == WindowRule::kNever && set);
  const int max_window_layers = ReadInt(config, "max_window_layers", 28);
  // sliding_window holds a number that says nothing while use_sliding_window is false.
  const bool used = rule == WindowRule::kWhereSet ? set : flag;
  if (used && rule == WindowRule::kNever) {
    RefuseOption(config, "sliding_window", "sliding windows are not supported in this family");
  }
  if (listed && !used) {
    RefuseOption(config, "layer_types", "\"sliding_attention\" needs \"use_sliding_window\": true");
  }
  const int window = ReadInt(config, "sliding_window", 4096);
  if (!used || rule == WindowRule::kNever) return;
  AttentionSpec& attention = spec.attention;
  for (int i = 0; i < static_cast<int>(spec.ffn.size()); ++i) {
    attention.windowed.push_back(types.empty() ? IsWindowed(rule, i, max_window_layers)
                                               : types[i] == "sliding_attention");
    if (attention.windowed.back()) attention.window = window;
  }
}

void ReadStorage(const HfConfig& config, ModelSpec& spec) {
  spec.tie_embeddings = config.OptBool("tie_word_embeddings").value_or(false);
  spec.checkpoint_dtype = ReadDType(config, "dtype");
  ReadQuantization(config, spec);
}

int ReadInt(const HfConfig& config, std::string_view key) {
  return CheckedInt(config, key, config.Int(key));
}

int ReadInt(const HfConfig& config, std::string_view key, int fallback) {
  const std::optional<int64_t> value = config.OptInt(key);
  return value ? CheckedInt(config, key, *value) : fallback;
}

void RefuseOption(const HfConfig& config, std::string_view key, std::string_view advice) {
  throw Error(ErrorCode::kUnsupported, config.origin() + ": \"" + std::string(key) + "\" is " +
                                           config.Describe(key) + ": " + std::string(advice));
}

void ReadCommon(const HfConfig& config, ModelSpec& spec, double default_eps) {
  spec.vocab_size = ReadInt(config, "vocab_size");
  spec.hidden_size = ReadInt(config, "hidden_size");
  spec.num_layers = ReadInt(config, "num_hidden_layers");
  spec.max_positions = ReadInt(config, "max_position_embeddings");
  spec.norm_eps = static_cast<float>(config.OptFloat("rms_norm_eps").value_or(default_eps));
  if (config.OptString("hidden_act").value_or("silu") != "silu") {
    RefuseOption(config, "hidden_act", "only \"silu\" is supported");
  }
  ReadStorage(config, spec);
}

void ReadAttention(const HfConfig& config, std::optional<int> default_kv_heads, ModelSpec& spec,
                   const AttentionDefaults& defaults) {
  AttentionSpec& attention = spec.attention;
  attention.num_heads = ReadInt(config, "num_attention_heads");
  attention.num_kv_heads =
      ReadInt(config, "num_key_value_heads", default_kv_heads.value_or(attention.num_heads));
  if (attention.num_heads == 0) RefuseOption(config, "num_attention_heads", "expected at least 1");
  const bool divides = spec.hidden_size % attention.num_heads == 0;
  if (!config.Has("head_dim") && defaults.head_dim == 0 && !divides) {
    RefuseOption(config, "hidden_size",
                 "expected a multiple of num_attention_heads where head_dim is not set");
  }
  const int divided = spec.hidden_size / attention.num_heads;
  attention.head_dim =
      ReadInt(config, "head_dim", defaults.head_dim == 0 ? divided : defaults.head_dim);
  attention.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(attention.head_dim)));
  ReadRope(config, attention.head_dim, defaults.rope_theta, spec);
}

int LayersToDescribe(const ModelSpec& spec) {
  return std::min(spec.num_layers, 4096);
}

void ReadSparseLayers(const HfConfig& config, ModelSpec& spec) {
  spec.dense.intermediate = ReadInt(config, "intermediate_size");
  spec.moe.num_experts = ReadInt(config, "num_experts");
  spec.moe.top_k = ReadInt(config, "num_experts_per_tok");
  spec.moe.expert_ffn = ReadInt(config, "moe_intermediate_size");
  spec.moe.renormalize_topk = config.OptBool("norm_topk_prob").value_or(false);
  const int step = ReadInt(config, "decoder_sparse_step", 1);
  if (step == 0) RefuseOption(config, "decoder_sparse_step", "expected at least 1");
  std::vector<int64_t> dense;
  if (config.Has("mlp_only_layers")) dense = config.IntList("mlp_only_layers");
  for (int i = 0; i < LayersToDescribe(spec); ++i) {
    const bool listed = std::find(dense.begin(), dense.end(), i) != dense.end();
    const bool sparse = !listed && spec.moe.num_experts > 0 && (i + 1) % step == 0;
    spec.ffn.push_back(sparse ? FfnKind::kMoe : FfnKind::kDense);
  }
}

}  // namespace sluice::arch
