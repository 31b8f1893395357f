#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "hub/hub_client.h"

namespace sluice {

struct PullOptions {
  std::string name;  // "ORG/NAME"
  std::string revision = "main";
  // Patterns of file names, as fnmatch's: `*` matches '/' too. Without an include pattern, what
  // the engine reads is chosen (see SelectFiles).
  std::vector<std::string> include;
  std::vector<std::string> exclude;
  // Exactly one of them: a folder of the hub cache's layout, or a plain folder for the files.
  std::filesystem::path cache_dir;
  std::filesystem::path local_dir;
  int max_workers = 8;  // files fetched at once
};

struct PullProgress {
  std::string model;
  int files_done = 0;
  int files_total = 0;
  uint64_t bytes_done = 0;  // with what was here before
  uint64_t bytes_total = 0;
};
// Called from fetching threads, one at a time.
using OnPullProgress = std::function<void(const PullProgress&)>;

struct PullResult {
  std::string commit;
  std::filesystem::path dir;  // the folder with config.json
  int files = 0;
  uint64_t bytes = 0;          // of all files
  uint64_t bytes_fetched = 0;  // by this pull
};

// Fetches a model. A file appears under its name only when it is complete and has the hub's hash;
// what is there already is not fetched again, what is there in part is continued. Pulls of the
// same model by several processes take turns file by file. In the cache's layout
// (https://huggingface.co/docs/huggingface_hub/guides/manage-cache) files are blobs named by their
// hash, snapshots/COMMIT links to them, and refs/REVISION is written last, so that a model is
// found by name only when it is whole. Throws Error as HubClient and DownloadFile do, and
// kResourceExhausted, before anything is fetched, when the disk has no room.
PullResult Pull(const HubClient& client, const PullOptions& options,
                const OnPullProgress& on_progress);

// The files that the options ask for. By default those that the engine reads: safetensors
// weights, JSON, tokenizer files, chat templates, and the model's card and licence, in the top
// folder only, without a second copy of the weights under another name. Throws Error:
// kDataLoss for a file name that would lead out of the model's folder, kNotFound when nothing is
// left.
std::vector<HubFile> SelectFiles(const HubModel& model, const PullOptions& options);

}  // namespace sluice
