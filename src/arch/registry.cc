#include "arch/registry.h"

#include <algorithm>
#include <array>
#include <limits>
#include <string_view>

#include "arch/families.h"
#include "base/error.h"

namespace sluice {
namespace {

struct Family {
  std::string_view model_type;
  ModelSpec (*read)(const HfConfig&);
};

constexpr std::array kFamilies = {
    Family{"llama", arch::LlamaSpec},
    Family{"qwen2_moe", arch::Qwen2MoeSpec},
    Family{"qwen3_moe", arch::Qwen3MoeSpec},
};

// Keys that say nothing about inference: bookkeeping, training, and what save_pretrained writes.
constexpr std::string_view kHarmlessKeys[] = {"_name_or_path",
                                              "architectures",
                                              "attention_dropout",
                                              "auto_map",
                                              "bos_token_id",
                                              "chunk_size_feed_forward",
                                              "initializer_range",
                                              "is_decoder",
                                              "is_encoder_decoder",
                                              "model_type",
                                              "output_attentions",
                                              "output_hidden_states",
                                              "output_router_logits",
                                              "pad_token_id",
                                              "return_dict",
                                              "router_aux_loss_coef",
                                              "transformers_version",
                                              "use_cache",
                                              "_attn_implementation",
                                              "_attn_implementation_autoset",
                                              "id2label",
                                              "label2id",
                                              "problem_type",
                                              "use_return_dict",
                                              "_commit_hash",
                                              "tokenizer_class",
                                              "unsloth_version"};

// Keys of other families that change what a model computes. Set to anything but null, false, 0 or
// nothing where the family does not read them, they are refused: ignoring one gives wrong logits.
constexpr std::string_view kMeaningfulKeys[] = {"attention_multiplier",
                                                "attn_logit_softcapping",
                                                "clip_qkv",
                                                "embedding_multiplier",
                                                "final_logit_softcapping",
                                                "first_k_dense_replace",
                                                "kv_lora_rank",
                                                "layernorm_num_groups",
                                                "logit_scale",
                                                "logits_scaling",
                                                "moe_layer_start_index",
                                                "n_group",
                                                "n_shared_experts",
                                                "no_rope_layers",
                                                "parallel_attn",
                                                "partial_rotary_factor",
                                                "q_lora_rank",
                                                "query_pre_attn_scalar",
                                                "residual_multiplier",
                                                "rotary_pct",
                                                "routed_scaling_factor",
                                                "scale_depth",
                                                "scale_emb",
                                                "scoring_func",
                                                "topk_group",
                                                "topk_method",
                                                "use_mrope"};

void RefuseMeaningfulKeys(const HfConfig& config) {
  for (const std::string& key : config.UnreadKeys()) {
    if (std::find(std::begin(kMeaningfulKeys), std::end(kMeaningfulKeys), key) ==
        std::end(kMeaningfulKeys)) {
      continue;
    }
    const std::string value = config.Describe(key);
    if (value == "null" || value == "false" || value == "0" || value == "[]") continue;
    throw Error(ErrorCode::kUnsupported, config.origin() + ": \"" + key + "\" is " + value +
                                             ", which this family does not support");
  }
}

std::vector<std::string> UnknownKeys(const HfConfig& config) {
  std::vector<std::string> unknown = config.UnreadKeys();
  std::erase_if(unknown, [](const std::string& key) {
    return std::find(std::begin(kHarmlessKeys), std::end(kHarmlessKeys), key) !=
           std::end(kHarmlessKeys);
  });
  return unknown;
}

// One id or a list of them.
std::vector<int> ReadEos(const HfConfig& config) {
  std::vector<int> ids;
  if (!config.Has("eos_token_id")) return ids;
  const boost::json::value* value = config.json().if_contains("eos_token_id");
  const std::vector<int64_t> read = value->is_array()
                                        ? config.IntList("eos_token_id")
                                        : std::vector<int64_t>{config.Int("eos_token_id")};
  for (const int64_t id : read) {
    if (id < 0 || id > std::numeric_limits<int>::max()) {
      throw Error(ErrorCode::kInvalidArgument, config.origin() + ": \"eos_token_id\" is " +
                                                   config.Describe("eos_token_id") +
                                                   ", expected token ids");
    }
    ids.push_back(static_cast<int>(id));
  }
  return ids;
}

}  // namespace

std::vector<std::string> KnownFamilies() {
  std::vector<std::string> names;
  for (const Family& family : kFamilies) names.emplace_back(family.model_type);
  return names;
}

SpecResult SpecFromConfig(const HfConfig& config, const HfConfig* generation_config) {
  const std::string model_type = config.String("model_type");
  const auto family = std::find_if(kFamilies.begin(), kFamilies.end(), [&](const Family& known) {
    return known.model_type == model_type;
  });
  if (family == kFamilies.end()) {
    std::string known;
    for (const std::string& name : KnownFamilies())
      known.append(known.empty() ? "" : ", ").append(name);
    throw Error(ErrorCode::kUnsupported, config.origin() + ": \"model_type\" is \"" + model_type +
                                             "\"; the families supported are " + known);
  }
  SpecResult result{.spec = family->read(config)};
  result.spec.eos_token_ids = ReadEos(config);
  if (generation_config != nullptr && generation_config->Has("eos_token_id")) {
    result.spec.eos_token_ids = ReadEos(*generation_config);
  }
  Validate(result.spec);
  RefuseMeaningfulKeys(config);
  result.unknown_keys = UnknownKeys(config);
  return result;
}

}  // namespace sluice
