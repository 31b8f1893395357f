#include "hub/model_places.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <system_error>

#include "base/error.h"

namespace sluice {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kCachePrefix = "models--";

bool IsFolder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

bool IsCheckpoint(const fs::path& dir) {
  std::error_code ignored;
  return fs::exists(dir / "config.json", ignored);
}

bool IsCacheFolder(const fs::path& dir) {
  return dir.filename().string().starts_with(kCachePrefix) && IsFolder(dir / "snapshots");
}

// "ORG/NAME" of "models--ORG--NAME".
std::string NameOfCacheFolder(const fs::path& dir) {
  std::string name = dir.filename().string().substr(kCachePrefix.size());
  const size_t separator = name.find("--");
  if (separator == std::string::npos) return name;
  return name.substr(0, separator) + '/' + name.substr(separator + 2);
}

std::vector<fs::path> FoldersIn(const fs::path& dir) {
  std::vector<fs::path> folders;
  std::error_code error;
  for (fs::directory_iterator entry(dir, error), end; !error && entry != end;
       entry.increment(error)) {
    if (IsFolder(entry->path())) folders.push_back(entry->path());
  }
  std::sort(folders.begin(), folders.end());
  return folders;
}

// A revision is a name inside refs/ or snapshots/, never a way out of them.
bool IsPlainRelative(const std::string& revision) {
  const fs::path path = revision;
  return !path.is_absolute() && std::none_of(path.begin(), path.end(), [](const fs::path& part) {
    return part == ".." || part == "." || part.empty();
  });
}

// The snapshot of `revision` in a folder of the cache's layout.
std::optional<fs::path> FindSnapshot(const fs::path& cache_folder, const std::string& revision) {
  const std::string wanted = revision.empty() ? "main" : revision;
  if (!IsPlainRelative(wanted)) return std::nullopt;
  const fs::path snapshots = cache_folder / "snapshots";
  std::string commit;
  if (std::ifstream file(cache_folder / "refs" / wanted); file >> commit) {
    if (IsPlainRelative(commit) && IsFolder(snapshots / commit)) return snapshots / commit;
  }
  if (!revision.empty() && IsFolder(snapshots / wanted)) return snapshots / wanted;
  if (revision.empty()) {
    const std::vector<fs::path> all = FoldersIn(snapshots);
    if (all.size() == 1) return all.front();
  }
  return std::nullopt;
}

LocalModel OpenFolder(const std::string& text, const std::string& revision) {
  const fs::path dir = text;
  const fs::path real = fs::weakly_canonical(dir);
  if (IsCacheFolder(real)) {
    const std::optional<fs::path> snapshot = FindSnapshot(real, revision);
    if (snapshot) return {.name = NameOfCacheFolder(real), .dir = *snapshot};
    throw Error(ErrorCode::kNotFound, "'" + text + "' holds no snapshot of revision '" +
                                          (revision.empty() ? "main" : revision) +
                                          "': `sluice pull " + NameOfCacheFolder(real) +
                                          "` fetches it");
  }
  if (!revision.empty()) {
    throw Error(ErrorCode::kInvalidArgument,
                "--revision " + revision + ": the folder '" + text +
                    "' has no revisions; they are for models named as ORG/NAME");
  }
  const fs::path above = real.parent_path();
  if (above.filename() == "snapshots" && IsCacheFolder(above.parent_path())) {
    return {.name = NameOfCacheFolder(above.parent_path()), .dir = dir};
  }
  return {.name = real.filename().string(), .dir = dir};
}

[[noreturn]] void FailNotFound(const std::string& text, const std::string& revision,
                               const ModelPlaces& places) {
  std::string message = "'" + text + "' is not a folder";
  if (!IsModelName(text)) {
    throw Error(ErrorCode::kNotFound, message +
                                          ": a model is a folder with config.json, *.safetensors "
                                          "and tokenizer.json, or the name of a pulled one");
  }
  message += revision.empty()
                 ? ", and no model of that name is in "
                 : ", and no model of that name and revision '" + revision + "' is in ";
  message += places.model_dir ? "MODEL_DIR (" + places.model_dir->string() + ")"
                              : std::string("MODEL_DIR (not set)");
  if (places.hub_cache) message += " or the hub's cache (" + places.hub_cache->string() + ")";
  message += ": `sluice pull " + text + (revision.empty() ? "" : " --revision " + revision) +
             "` fetches it";
  throw Error(ErrorCode::kNotFound, message);
}

}  // namespace

std::optional<std::string> Environment(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return value;
}

std::optional<fs::path> HubHomeFromEnvironment() {
  if (const auto home = Environment("HF_HOME")) return *home;
  if (const auto cache = Environment("XDG_CACHE_HOME")) return fs::path(*cache) / "huggingface";
  if (const auto home = Environment("HOME")) return fs::path(*home) / ".cache/huggingface";
  return std::nullopt;
}

ModelPlaces ModelPlacesFromEnvironment() {
  ModelPlaces places;
  if (const auto dir = Environment("MODEL_DIR")) places.model_dir = *dir;
  if (const auto cache = Environment("HF_HUB_CACHE")) {
    places.hub_cache = *cache;
  } else if (const auto home = HubHomeFromEnvironment()) {
    places.hub_cache = *home / "hub";
  }
  return places;
}

bool IsModelName(std::string_view text) {
  const auto is_part = [](std::string_view part) {
    constexpr size_t kMaxPart = 96;  // as the hub allows
    return !part.empty() && part.size() <= kMaxPart && part != "." && part != ".." &&
           part.front() != '-' && part.find("--") == std::string_view::npos &&
           std::all_of(part.begin(), part.end(), [](char c) {
             return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                    c == '-' || c == '_' || c == '.';
           });
  };
  const size_t slash = text.find('/');
  if (slash == std::string_view::npos) return is_part(text);
  return is_part(text.substr(0, slash)) && is_part(text.substr(slash + 1));
}

std::string CacheFolderName(std::string_view model) {
  std::string name(model);
  const size_t slash = name.find('/');
  if (slash != std::string::npos) name.replace(slash, 1, "--");
  return std::string(kCachePrefix) + name;
}

LocalModel FindModel(const std::string& text, const std::string& revision,
                     const ModelPlaces& places) {
  if (IsFolder(text)) return OpenFolder(text, revision);
  if (!IsModelName(text)) FailNotFound(text, revision, places);
  if (places.model_dir && revision.empty()) {
    for (const fs::path& dir :
         {*places.model_dir / text, *places.model_dir / fs::path(text).filename()}) {
      if (IsCheckpoint(dir)) return {.name = text, .dir = dir};
    }
  }
  for (const std::optional<fs::path>& root : {places.model_dir, places.hub_cache}) {
    if (!root) continue;
    const fs::path folder = *root / CacheFolderName(text);
    if (!IsCacheFolder(folder)) continue;
    if (const auto snapshot = FindSnapshot(folder, revision)) {
      return {.name = text, .dir = *snapshot};
    }
  }
  FailNotFound(text, revision, places);
}

std::vector<LocalModel> ListModels(const ModelPlaces& places) {
  std::map<std::string, fs::path> found;
  const auto add_snapshots = [&found](const fs::path& root) {
    for (const fs::path& dir : FoldersIn(root)) {
      if (!IsCacheFolder(dir)) continue;
      const auto snapshot = FindSnapshot(dir, "");
      if (snapshot && IsCheckpoint(*snapshot)) found.emplace(NameOfCacheFolder(dir), *snapshot);
    }
  };
  if (places.model_dir) {
    for (const fs::path& outer : FoldersIn(*places.model_dir)) {
      const std::string name = outer.filename().string();
      if (IsCheckpoint(outer)) {
        found.emplace(name, outer);
      } else if (!IsCacheFolder(outer)) {
        for (const fs::path& inner : FoldersIn(outer)) {
          if (IsCheckpoint(inner)) found.emplace(name + "/" + inner.filename().string(), inner);
        }
      }
    }
    add_snapshots(*places.model_dir);
  }
  if (places.hub_cache) add_snapshots(*places.hub_cache);
  std::vector<LocalModel> models;
  for (const auto& [name, dir] : found) models.push_back({.name = name, .dir = dir});
  return models;
}

}  // namespace sluice
