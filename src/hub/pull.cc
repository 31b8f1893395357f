#include "hub/pull.h"

#include <fnmatch.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <fstream>
#include <mutex>
#include <optional>
#include <set>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/machine.h"
#include "hub/file_download.h"
#include "hub/file_lock.h"
#include "hub/model_places.h"

namespace sluice {

namespace fs = std::filesystem;

namespace {

constexpr const char* kDefaultFiles[] = {
    "*.safetensors", "*.json",    "*.jinja", "*.model",  "*.tiktoken", "merges.txt",
    "vocab.txt",     "README.md", "README",  "LICENSE*", "LICENCE*",   "NOTICE*",
};

bool Matches(const std::string& path, const std::string& pattern) {
  return fnmatch(pattern.c_str(), path.c_str(), 0) == 0;
}

bool MatchesAny(const std::string& path, const std::vector<std::string>& patterns) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const std::string& pattern) { return Matches(path, pattern); });
}

bool IsNeeded(const std::string& path, bool has_usual_weights) {
  if (path.find('/') != std::string::npos) return false;
  // A second copy of the weights, for another program.
  if (has_usual_weights && Matches(path, "consolidated*.safetensors")) return false;
  return std::any_of(std::begin(kDefaultFiles), std::end(kDefaultFiles),
                     [&](const char* pattern) { return Matches(path, pattern); });
}

// A file's name becomes a path below the model's folder and nowhere else.
void CheckFileName(const std::string& model, const std::string& path) {
  constexpr size_t kMaxPart = 255;
  bool good = !path.empty();
  for (size_t begin = 0; good && begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string_view part(path.data() + begin, end - begin);
    good = !part.empty() && part != "." && part != ".." && part.size() <= kMaxPart &&
           std::none_of(part.begin(), part.end(),
                        [](unsigned char c) { return c < 0x20 || c == 0x7f || c == '\\'; });
    begin = end + 1;
  }
  if (!good) {
    throw Error(ErrorCode::kDataLoss, model + ": the hub lists a file '" + path +
                                          "', whose name would lead out of the model's folder; "
                                          "nothing was fetched");
  }
}

void WriteWhole(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  const fs::path temporary = path.string() + "." + std::to_string(getpid()) + ".tmp";
  std::ofstream file(temporary, std::ios::binary);
  file << text;
  file.close();
  if (!file) {
    throw Error(ErrorCode::kResourceExhausted, temporary.string() + ": cannot be written");
  }
  fs::rename(temporary, path);
}

// Where files go, and when one is there.
class Store {
 public:
  virtual ~Store() = default;
  virtual fs::path dir() const = 0;
  virtual fs::path LockPath(const HubFile& file) const = 0;
  virtual fs::path PartialPath(const HubFile& file) const = 0;
  // Whether the content is here already. Called with the lock held.
  virtual bool Has(const HubFile& file) const = 0;
  // Gives the complete content at PartialPath its name.
  virtual void Place(const HubFile& file) const = 0;
  // Once the content is there, whoever fetched it.
  virtual void Finish(const HubFile& file) const = 0;
  // Once all files are.
  virtual void FinishAll() const = 0;
};

class CacheStore : public Store {
 public:
  CacheStore(const fs::path& cache_dir, const HubModel& model)
      : model_(model),
        root_(cache_dir / CacheFolderName(model.name)),
        locks_(cache_dir / ".locks" / CacheFolderName(model.name)) {}

  fs::path dir() const override { return root_ / "snapshots" / model_.commit; }
  fs::path LockPath(const HubFile& file) const override { return locks_ / (file.etag + ".lock"); }
  fs::path PartialPath(const HubFile& file) const override {
    return root_ / "blobs" / (file.etag + ".incomplete");
  }
  bool Has(const HubFile& file) const override {
    std::error_code error;
    const fs::path blob = BlobPath(file);
    return fs::is_regular_file(blob, error) && fs::file_size(blob, error) == file.size;
  }
  void Place(const HubFile& file) const override { fs::rename(PartialPath(file), BlobPath(file)); }
  void Finish(const HubFile& file) const override {
    const fs::path link = dir() / file.path;
    const fs::path target = fs::relative(BlobPath(file), link.parent_path());
    std::error_code error;
    if (fs::read_symlink(link, error) == target && !error) return;
    fs::create_directories(link.parent_path());
    const fs::path temporary = link.string() + "." + std::to_string(getpid()) + ".tmp";
    fs::remove(temporary);
    fs::create_symlink(target, temporary);
    fs::rename(temporary, link);
  }
  void FinishAll() const override {
    if (model_.revision != model_.commit) {
      WriteWhole(root_ / "refs" / model_.revision, model_.commit);
    }
  }

 private:
  fs::path BlobPath(const HubFile& file) const { return root_ / "blobs" / file.etag; }

  const HubModel& model_;
  fs::path root_;
  fs::path locks_;
};

// As huggingface_hub keeps a folder of plain files: its own below .cache/huggingface.
class FolderStore : public Store {
 public:
  explicit FolderStore(const fs::path& dir)
      : dir_(dir), work_(dir / ".cache/huggingface/download") {}

  fs::path dir() const override { return dir_; }
  fs::path LockPath(const HubFile& file) const override { return work_ / (file.path + ".lock"); }
  fs::path PartialPath(const HubFile& file) const override {
    return work_ / (file.path + "." + file.etag + ".incomplete");
  }
  bool Has(const HubFile& file) const override { return HasContent(dir_ / file.path, file); }
  void Place(const HubFile& file) const override {
    const fs::path path = dir_ / file.path;
    fs::create_directories(path.parent_path());
    fs::rename(PartialPath(file), path);
  }
  void Finish(const HubFile&) const override {}
  void FinishAll() const override {}

 private:
  fs::path dir_;
  fs::path work_;
};

uint64_t SizeOr0(const fs::path& path) {
  std::error_code error;
  const uint64_t size = fs::file_size(path, error);
  return error ? 0 : size;
}

void CheckDisk(const Store& store, const HubModel& model, const std::vector<HubFile>& files,
               const fs::path& root) {
  fs::create_directories(root);
  uint64_t needed = 0;
  std::set<std::string> counted;
  for (const HubFile& file : files) {
    if (!counted.insert(file.etag).second || store.Has(file)) continue;
    const uint64_t missing = file.size - std::min(file.size, SizeOr0(store.PartialPath(file)));
    needed = missing > UINT64_MAX - needed ? UINT64_MAX : needed + missing;
  }
  const uint64_t free = fs::space(root).available;
  if (needed <= free) return;
  throw Error(ErrorCode::kResourceExhausted,
              model.name + ": needs " + FormatBytes(needed) + " of disk in " + root.string() +
                  ", " + FormatBytes(free) +
                  " free: free some, or choose another disk with MODEL_DIR or --local-dir");
}

// Fetches the files of one pull on several threads.
class Workers {
 public:
  Workers(const HubClient& client, const HubModel& model, const std::vector<HubFile>& files,
          const Store& store, const OnPullProgress& on_progress)
      : client_(client), model_(model), files_(files), store_(store), on_progress_(on_progress) {
    progress_.model = model.name;
    progress_.files_total = static_cast<int>(files.size());
    for (const HubFile& file : files) progress_.bytes_total += file.size;
  }

  // Throws the first failure, once every thread has stopped.
  void Run(int count) {
    Report([](PullProgress&) {});
    {
      std::vector<std::jthread> threads;
      for (int i = 0; i < count; ++i) threads.emplace_back([this] { FetchFiles(); });
    }
    if (failure_) std::rethrow_exception(failure_);
  }

  uint64_t bytes_fetched() const { return bytes_fetched_; }

 private:
  void FetchFiles() {
    const std::stop_token stop = stop_.get_token();
    while (!stop.stop_requested()) {
      const size_t index = next_++;
      if (index >= files_.size()) return;
      try {
        Fetch(files_[index], stop);
      } catch (...) {
        const std::lock_guard lock(mutex_);
        if (!failure_) failure_ = std::current_exception();
        stop_.request_stop();
      }
    }
  }

  void Fetch(const HubFile& file, const std::stop_token& stop) {
    const FileLock lock(store_.LockPath(file), stop);
    if (store_.Has(file)) {
      Report([&](PullProgress& progress) { progress.bytes_done += file.size; });
    } else {
      const uint64_t before = SizeOr0(store_.PartialPath(file));
      const auto on_fetched = [this](int64_t bytes) {
        Report(
            [&](PullProgress& progress) { progress.bytes_done += static_cast<uint64_t>(bytes); });
      };
      DownloadFile(client_, model_, file, store_.PartialPath(file), on_fetched, stop);
      store_.Place(file);
      bytes_fetched_ += file.size - std::min(before, file.size);
    }
    store_.Finish(file);
    Report([](PullProgress& progress) { ++progress.files_done; });
  }

  template <class Change>
  void Report(const Change& change) {
    const std::lock_guard lock(mutex_);
    change(progress_);
    on_progress_(progress_);
  }

  const HubClient& client_;
  const HubModel& model_;
  const std::vector<HubFile>& files_;
  const Store& store_;
  const OnPullProgress& on_progress_;
  std::atomic<size_t> next_ = 0;
  std::atomic<uint64_t> bytes_fetched_ = 0;
  std::stop_source stop_;
  std::mutex mutex_;
  PullProgress progress_;
  std::exception_ptr failure_;
};

}  // namespace

std::vector<HubFile> SelectFiles(const HubModel& model, const PullOptions& options) {
  const bool has_usual_weights =
      std::any_of(model.files.begin(), model.files.end(), [](const HubFile& file) {
        return file.path == "model.safetensors" || file.path == "model.safetensors.index.json";
      });
  std::vector<HubFile> chosen;
  for (const HubFile& file : model.files) {
    CheckFileName(model.name, file.path);
    const bool wanted = options.include.empty() ? IsNeeded(file.path, has_usual_weights)
                                                : MatchesAny(file.path, options.include);
    if (wanted && !MatchesAny(file.path, options.exclude)) chosen.push_back(file);
  }
  if (chosen.empty()) {
    throw Error(ErrorCode::kNotFound, model.name + ": none of its " +
                                          std::to_string(model.files.size()) +
                                          " files is asked for: look at --include and --exclude");
  }
  return chosen;
}

PullResult Pull(const HubClient& client, const PullOptions& options,
                const OnPullProgress& on_progress) {
  const HubModel model = client.GetModel(options.name, options.revision, {});
  CheckFileName(model.name, options.revision);
  std::vector<HubFile> files = SelectFiles(model, options);
  for (HubFile& file : files) {
    if (file.etag.empty()) file = client.Describe(model, file.path, {});
  }
  std::unique_ptr<Store> store;
  if (options.local_dir.empty()) {
    store = std::make_unique<CacheStore>(options.cache_dir, model);
  } else {
    store = std::make_unique<FolderStore>(options.local_dir);
  }
  CheckDisk(*store, model, files,
            options.local_dir.empty() ? options.cache_dir : options.local_dir);
  // The largest first, so that it is not what everyone waits for in the end.
  std::stable_sort(files.begin(), files.end(),
                   [](const HubFile& a, const HubFile& b) { return a.size > b.size; });
  Workers workers(client, model, files, *store, on_progress);
  workers.Run(std::min(options.max_workers, static_cast<int>(files.size())));
  store->FinishAll();
  PullResult result{.commit = model.commit,
                    .dir = store->dir(),
                    .files = static_cast<int>(files.size()),
                    .bytes_fetched = workers.bytes_fetched()};
  for (const HubFile& file : files) result.bytes += file.size;
  return result;
}

}  // namespace sluice
