#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

// Where models lie on this machine. MODEL_DIR holds folders of checkpoints and pulled models; the
// hub's cache is the one that Hugging Face's own tools fill (huggingface_hub, "Manage your cache").
struct ModelPlaces {
  std::optional<std::filesystem::path> model_dir;
  std::optional<std::filesystem::path> hub_cache;
};

// Reads MODEL_DIR, and HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME and HOME as huggingface_hub does. An
// empty variable counts as not set.
ModelPlaces ModelPlacesFromEnvironment();

// HF_HOME, or what it is when not set; nothing when there is no HOME either.
std::optional<std::filesystem::path> HubHomeFromEnvironment();

// The value of an environment variable, nothing when it is not set or empty.
std::optional<std::string> Environment(const char* name);

// A model on this machine: the folder that has its config.json.
struct LocalModel {
  std::string name;  // "ORG/NAME" where that is known, else the folder's own
  std::filesystem::path dir;
};

// Whether `text` could name a model on a hub: NAME or ORG/NAME of letters, digits, '-', '_' and
// '.'.
bool IsModelName(std::string_view text);

// "models--ORG--NAME", the folder of "ORG/NAME" in the cache's layout.
std::string CacheFolderName(std::string_view model);

// Finds a model by folder or by name. A folder may be a checkpoint, or one of the hub's cache
// (models--ORG--NAME, or a snapshot inside it). A name is looked for as MODEL_DIR/ORG/NAME,
// MODEL_DIR/NAME, then in the cache's layout under MODEL_DIR and under the hub's cache, where
// `revision` is a branch, tag or commit; empty means main, or the only one there. Throws
// Error(kNotFound) saying where it was looked for and how to fetch it.
LocalModel FindModel(const std::string& text, const std::string& revision,
                     const ModelPlaces& places);

// Every model that FindModel would find by name, sorted by name.
std::vector<LocalModel> ListModels(const ModelPlaces& places);

}  // namespace sluice
