#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "device/tensor.h"

namespace sluice {

class MappedFile;

// The tensors of a Hugging Face checkpoint folder, mapped read-only. Views stay valid as long as
// the Checkpoint. Immutable once open: any number of threads may read.
class Checkpoint {
 public:
  // Opens `dir`/model.safetensors, or the shards that `dir`/model.safetensors.index.json lists.
  // Throws Error: kNotFound for a folder without either, kDataLoss for a damaged file or an index
  // that disagrees with its shards.
  static std::unique_ptr<Checkpoint> Open(const std::filesystem::path& dir);

  // One safetensors file, whatever its name. Throws as Open does.
  static std::unique_ptr<Checkpoint> OpenFile(const std::filesystem::path& file);

  // One safetensors file in memory, which the caller keeps alive. `name` is used in errors.
  static std::unique_ptr<Checkpoint> FromMemory(std::span<const std::byte> bytes,
                                                const std::string& name);

  ~Checkpoint();
  Checkpoint(const Checkpoint&) = delete;
  Checkpoint& operator=(const Checkpoint&) = delete;

  std::vector<std::string> names() const;  // sorted
  std::optional<ConstTensorView> Find(std::string_view name) const;
  // Throws Error(kDataLoss) for a name that no file has.
  ConstTensorView Get(std::string_view name) const;
  // Bytes of all tensors.
  uint64_t TotalBytes() const;
  // Copies elements [first, first + target.NumElements()) of a tensor, a view that Get returned, to
  // `target`, contiguous and of its type. Reads the file, not the map, where a file that was cut
  // short or a disk that fails would end the process: here that is an Error(kDataLoss) which names
  // the file, the place in it and the cause.
  void Read(ConstTensorView tensor, int64_t first, TensorView target) const;
  // The file with the weights or their index, or the name it was given, for messages.
  const std::string& origin() const { return origin_; }

 private:
  explicit Checkpoint(std::string origin);
  // The file that `bytes` are mapped from; null for memory of the caller's.
  const MappedFile* FileOf(std::span<const std::byte> bytes) const;
  void AddFile(std::span<const std::byte> bytes, const std::string& file);
  void OpenShards(const std::filesystem::path& dir, const std::filesystem::path& index);

  std::string origin_;
  std::vector<std::unique_ptr<MappedFile>> files_;
  std::map<std::string, ConstTensorView, std::less<>> tensors_;
};

}  // namespace sluice
