#include "arch/registry.h"

#include <algorithm>
#include <array>
#include <limits>
#include <string_view>

#include "arch/config_reader.h"
#include "arch/families.h"
#include "base/error.h"

namespace sluice {
namespace {

struct Family {
  std::string_view model_type;
  ModelSpec (*read)(const HfConfig&);
};

constexpr std::array kFamilies = {
    Family{"dbrx", arch::DbrxSpec},       Family{"deepseek_v3", arch::DeepseekV3Spec},
    Family{"llada", arch::LladaSpec},     Family{"llama", arch::LlamaSpec},
    Family{"mixtral", arch::MixtralSpec}, Family{"olmoe", arch::OlmoeSpec},
    Family{"qwen2", arch::Qwen2Spec},     Family{"qwen2_moe", arch::Qwen2MoeSpec},
    Family{"qwen3", arch::Qwen3Spec},     Family{"qwen3_moe", arch::Qwen3MoeSpec},
};

// Keys that change nothing that is computed here: bookkeeping, training, and the defaults of
// generation and of other tasks that save_pretrained writes. What is in none of the family's reader
// and this list is refused: an option that nobody reads gives wrong logits in silence.
constexpr std::string_view kHarmlessKeys[] = {
    // who made it, with what
    "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_name_or_path",
    "architectures", "attn_implementation", "auto_map", "model_type", "tokenizer_class",
    "transformers_version", "unsloth_fixed", "unsloth_version",
    // ids that the tokenizer and generation_config.json say
    "bos_token_id", "decoder_start_token_id", "pad_token_id", "sep_token_id",
    // training
    "attention_dropout", "aux_loss_alpha", "classifier_dropout", "ep_size",
    "gradient_checkpointing", "hidden_dropout", "initializer_range", "output_router_logits",
    "pretraining_tp", "router_aux_loss_coef", "router_jitter_noise", "seq_aux", "use_bfloat16",
    // how the Python classes run
    "add_cross_attention", "chunk_size_feed_forward", "cross_attention_hidden_size",
    "finetuning_task", "id2label", "is_decoder", "is_encoder_decoder", "label2id",
    "low_cpu_mem_usage", "output_attentions", "output_hidden_states", "prefix", "problem_type",
    "pruned_heads", "return_dict", "task_specific_params", "tf_legacy_loss", "tie_encoder_decoder",
    "torchscript", "use_cache", "use_return_dict",
    // generation
    "bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping",
    "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id",
    "forced_eos_token_id", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size",
    "num_beam_groups", "num_beams", "num_return_sequences", "output_scores",
    "remove_invalid_values", "repetition_penalty", "return_dict_in_generate", "suppress_tokens",
    "temperature", "top_k", "top_p", "typical_p"};

// Whether a value switches nothing on: false, 0, "" or an empty list or object.
bool IsOff(const boost::json::value& value) {
  if (const bool* flag = value.if_bool()) return !*flag;
  if (value.is_number()) return value.to_number<double>() == 0.0;
  if (const auto* text = value.if_string()) return text->empty();
  if (const auto* list = value.if_array()) return list->empty();
  if (const auto* object = value.if_object()) return object->empty();
  return value.is_null();
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

void arch::RefuseUnknownKeys(const HfConfig& config) {
  for (const std::string& key : config.UnreadKeys()) {
    const bool harmless = std::find(std::begin(kHarmlessKeys), std::end(kHarmlessKeys), key) !=
                          std::end(kHarmlessKeys);
    if (harmless || IsOff(config.json().at(key))) continue;
    throw Error(ErrorCode::kUnsupported,
                config.origin() + ": \"" + key + "\" is " + config.Describe(key) +
                    ", an option that is not known here, and ignoring one can give wrong answers; "
                    "if it changes nothing, run with --hf-overrides '{\"" +
                    key + "\": null}'");
  }
}

std::vector<std::string> KnownFamilies() {
  std::vector<std::string> names;
  for (const Family& family : kFamilies) names.emplace_back(family.model_type);
  return names;
}

ModelSpec SpecFromConfig(const HfConfig& config, const HfConfig* generation_config) {
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
  ModelSpec spec = family->read(config);
  spec.eos_token_ids = ReadEos(config);
  if (generation_config != nullptr && generation_config->Has("eos_token_id")) {
    spec.eos_token_ids = ReadEos(*generation_config);
  }
  try {
    Validate(spec);
  } catch (const Error& error) {
    throw Error(error.code(), config.origin() + ": " + error.what());
  }
  arch::RefuseUnknownKeys(config);
  return spec;
}

}  // namespace sluice
