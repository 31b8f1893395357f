#include "checkpoint/checkpoint.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json/parse.hpp>
#include <cerrno>
#include <cstring>
#include <functional>
#include <set>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "checkpoint/safetensors.h"

namespace sluice {

namespace fs = std::filesystem;

// A file open for reading, and mapped, for its lifetime.
class MappedFile {
 public:
  explicit MappedFile(const fs::path& path)
      : path_(path.string()), descriptor_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (descriptor_ < 0) Fail("cannot be opened");
    try {
      Map();
    } catch (...) {
      close(descriptor_);
      throw;
    }
  }
  ~MappedFile() {
    if (size_ > 0) munmap(data_, size_);
    close(descriptor_);
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }

  // Reads bytes() [offset, offset + size) out of the file.
  void Read(size_t offset, size_t size, std::byte* target) const {
    for (size_t done = 0; done < size;) {
      const ssize_t got =
          pread(descriptor_, target + done, size - done, static_cast<off_t>(offset + done));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) FailRead(offset + done, got < 0 ? std::strerror(errno) : nullptr);
      done += static_cast<size_t>(got);
    }
  }

 private:
  void Map() {
    struct stat status {};
    if (fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
      throw Error(ErrorCode::kNotFound, path_ + ": is not a regular file");
    }
    size_ = static_cast<size_t>(status.st_size);
    if (size_ == 0) return;
    data_ = mmap(nullptr, size_, PROT_READ, MAP_SHARED, descriptor_, 0);
    if (data_ == MAP_FAILED) Fail("cannot be mapped");
  }

  [[noreturn]] void Fail(const char* what) const {
    const ErrorCode code = errno == ENOENT ? ErrorCode::kNotFound : ErrorCode::kUnavailable;
    throw Error(code, path_ + ": " + what + ": " + std::strerror(errno));
  }

  [[noreturn]] void FailRead(size_t offset, const char* cause) const {
    const std::string at = " at byte " + std::to_string(offset);
    throw Error(ErrorCode::kDataLoss,
                cause != nullptr
                    ? path_ + ": cannot be read" + at + ": " + cause
                    : path_ + ": ends" + at + " and had " + std::to_string(size_) +
                          " bytes when it was opened: it was cut short, fetch it again");
  }

  std::string path_;
  int descriptor_;
  void* data_ = nullptr;
  size_t size_ = 0;
};

namespace {

// Tensor name to shard file name.
using WeightMap = std::map<std::string, std::string>;

WeightMap ParseIndex(std::span<const std::byte> bytes, const std::string& file) {
  boost::json::error_code error;
  const boost::json::value root =
      boost::json::parse({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, error);
  if (error) {
    throw Error(ErrorCode::kDataLoss, file + ": is not valid JSON (" + error.message() + ")");
  }
  const boost::json::object* object = root.if_object();
  const boost::json::value* map = object ? object->if_contains("weight_map") : nullptr;
  if (map == nullptr || !map->is_object()) {
    throw Error(ErrorCode::kDataLoss, file +
                                          ": has no \"weight_map\" object, which should name "
                                          "the shard of each tensor");
  }
  WeightMap weights;
  for (const auto& [name, shard] : map->get_object()) {
    if (!shard.is_string()) {
      throw Error(ErrorCode::kDataLoss,
                  file + ": the shard of \"" + std::string(name) + "\" is not a file name");
    }
    weights.emplace(name, std::string(shard.get_string()));
  }
  if (weights.empty()) throw Error(ErrorCode::kDataLoss, file + ": lists no tensor");
  return weights;
}

// A shard lies in the checkpoint's own folder.
void CheckShardName(const std::string& shard, const std::string& file) {
  if (shard.empty() || shard == "." || shard == ".." ||
      shard.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos) {
    throw Error(ErrorCode::kDataLoss, file + ": names the shard \"" + shard +
                                          "\"; a shard is a file in the same folder, named "
                                          "without a path");
  }
}

[[noreturn]] void FailEmptyFolder(const fs::path& dir) {
  std::string other;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir)) {
    const std::string extension = entry.path().extension().string();
    if (extension == ".bin" || extension == ".pt" || extension == ".gguf" || extension == ".pth") {
      other = entry.path().filename().string();
    }
  }
  std::string message = dir.string() +
                        ": has no model.safetensors and no model.safetensors.index.json; expected "
                        "a Hugging Face checkpoint folder with config.json and safetensors weights";
  if (!other.empty()) message += ". " + other + " is another format: convert it to safetensors";
  throw Error(ErrorCode::kNotFound, message + " (--load-format dummy runs config.json alone)");
}

}  // namespace

Checkpoint::Checkpoint(std::string origin) : origin_(std::move(origin)) {}
Checkpoint::~Checkpoint() = default;

std::unique_ptr<Checkpoint> Checkpoint::Open(const fs::path& dir) {
  std::error_code ignored;
  if (!fs::is_directory(dir, ignored)) {
    throw Error(ErrorCode::kNotFound,
                dir.string() + (fs::exists(dir, ignored) ? ": is not a folder" : ": is not there") +
                    "; expected a Hugging Face checkpoint folder with config.json, tokenizer.json "
                    "and model.safetensors");
  }
  const fs::path single = dir / "model.safetensors";
  const fs::path index = dir / "model.safetensors.index.json";
  const bool is_single = fs::exists(single, ignored);
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint((is_single ? single : index).string()));
  if (is_single) {
    checkpoint->files_.push_back(std::make_unique<MappedFile>(single));
    checkpoint->AddFile(checkpoint->files_.back()->bytes(), single.string());
  } else if (fs::exists(index, ignored)) {
    checkpoint->OpenShards(dir, index);
  } else {
    FailEmptyFolder(dir);
  }
  return checkpoint;
}

std::unique_ptr<Checkpoint> Checkpoint::OpenFile(const fs::path& file) {
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint(file.string()));
  checkpoint->files_.push_back(std::make_unique<MappedFile>(file));
  checkpoint->AddFile(checkpoint->files_.back()->bytes(), file.string());
  return checkpoint;
}

std::unique_ptr<Checkpoint> Checkpoint::FromMemory(std::span<const std::byte> bytes,
                                                   const std::string& name) {
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint(name));
  checkpoint->AddFile(bytes, name);
  return checkpoint;
}

void Checkpoint::AddFile(std::span<const std::byte> bytes, const std::string& file) {
  const SafetensorsFile parsed = SafetensorsFile::Parse(bytes, file);
  for (const SafetensorsEntry& entry : parsed.entries()) {
    if (!tensors_.emplace(entry.name, parsed.View(entry)).second) {
      throw Error(ErrorCode::kDataLoss,
                  file + ": tensor \"" + entry.name + "\" is in another shard too");
    }
  }
}

void Checkpoint::OpenShards(const fs::path& dir, const fs::path& index) {
  const std::string file = index.string();
  const WeightMap weights = ParseIndex(MappedFile(index).bytes(), file);
  std::set<std::string> shards;
  for (const auto& [name, shard] : weights) shards.insert(shard);
  for (const std::string& shard : shards) {
    CheckShardName(shard, file);
    const fs::path path = dir / shard;
    std::error_code unusable;  // a name that no file system takes is not there either
    if (!fs::exists(path, unusable)) {
      throw Error(ErrorCode::kNotFound,
                  path.string() + ": is not there, but " + file +
                      " lists it; the download is incomplete, fetch it again");
    }
    files_.push_back(std::make_unique<MappedFile>(path));
    const SafetensorsFile parsed = SafetensorsFile::Parse(files_.back()->bytes(), path.string());
    for (const SafetensorsEntry& entry : parsed.entries()) {
      const auto listed = weights.find(entry.name);
      if (listed == weights.end() || listed->second != shard) {
        throw Error(ErrorCode::kDataLoss, path.string() + ": holds tensor \"" + entry.name +
                                              "\", which " + file + " does not place there");
      }
      tensors_.emplace(entry.name, parsed.View(entry));
    }
  }
  for (const auto& [name, shard] : weights) {
    if (!tensors_.contains(name)) {
      throw Error(ErrorCode::kDataLoss, file + ": places tensor \"" + name + "\" in " + shard +
                                            ", which does not hold it");
    }
  }
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> names;
  names.reserve(tensors_.size());
  for (const auto& [name, view] : tensors_) names.push_back(name);
  return names;
}

std::optional<ConstTensorView> Checkpoint::Find(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) return std::nullopt;
  return found->second;
}

ConstTensorView Checkpoint::Get(std::string_view name) const {
  const std::optional<ConstTensorView> view = Find(name);
  if (!view) {
    throw Error(ErrorCode::kDataLoss, origin_ + ": has no tensor \"" + std::string(name) + "\"");
  }
  return *view;
}

const MappedFile* Checkpoint::FileOf(std::span<const std::byte> bytes) const {
  const std::less_equal<> before;  // orders pointers into different files, too
  for (const std::unique_ptr<MappedFile>& file : files_) {
    const std::span<const std::byte> whole = file->bytes();
    if (before(whole.data(), bytes.data()) &&
        before(bytes.data() + bytes.size(), whole.data() + whole.size())) {
      return file.get();
    }
  }
  return nullptr;
}

void Checkpoint::Read(ConstTensorView tensor, int64_t first, TensorView target) const {
  SLUICE_CHECK(tensor.dtype() == target.dtype());
  SLUICE_CHECK(target.IsContiguous());
  SLUICE_CHECK(first >= 0 && first + target.NumElements() <= tensor.NumElements());
  const std::span<const std::byte> bytes(static_cast<const std::byte*>(tensor.raw()) +
                                             first * static_cast<int64_t>(SizeOf(tensor.dtype())),
                                         static_cast<size_t>(target.NumBytes()));
  auto* const to = static_cast<std::byte*>(target.raw());
  if (const MappedFile* file = FileOf(bytes)) {
    file->Read(static_cast<size_t>(bytes.data() - file->bytes().data()), bytes.size(), to);
  } else {
    std::memcpy(to, bytes.data(), bytes.size());
  }
}

uint64_t Checkpoint::TotalBytes() const {
  uint64_t bytes = 0;
  for (const auto& [name, view] : tensors_) bytes += static_cast<uint64_t>(view.NumBytes());
  return bytes;
}

}  // namespace sluice
