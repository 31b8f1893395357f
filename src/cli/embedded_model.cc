#include "cli/embedded_model.h"

// Defined in embedded_files.S: the first byte of each file and the byte behind its last.
extern "C" {
extern const char sluice_embedded_config[], sluice_embedded_config_end[];
extern const char sluice_embedded_generation_config[], sluice_embedded_generation_config_end[];
extern const char sluice_embedded_tokenizer[], sluice_embedded_tokenizer_end[];
extern const char sluice_embedded_tokenizer_config[], sluice_embedded_tokenizer_config_end[];
extern const char sluice_embedded_safetensors[], sluice_embedded_safetensors_end[];
extern const char sluice_embedded_groups[], sluice_embedded_groups_end[];
}

namespace sluice {
namespace {

std::string_view Text(const char* begin, const char* end) {
  return {begin, static_cast<size_t>(end - begin)};
}

}  // namespace

EmbeddedModel GetEmbeddedModel() {
  return {
      .config_json = Text(sluice_embedded_config, sluice_embedded_config_end),
      .generation_config_json =
          Text(sluice_embedded_generation_config, sluice_embedded_generation_config_end),
      .tokenizer_json = Text(sluice_embedded_tokenizer, sluice_embedded_tokenizer_end),
      .tokenizer_config_json =
          Text(sluice_embedded_tokenizer_config, sluice_embedded_tokenizer_config_end),
      .safetensors = {reinterpret_cast<const std::byte*>(sluice_embedded_safetensors),
                      static_cast<size_t>(sluice_embedded_safetensors_end -
                                          sluice_embedded_safetensors)},
  };
}

std::string_view EmbeddedGroups() {
  return Text(sluice_embedded_groups, sluice_embedded_groups_end);
}

}  // namespace sluice
