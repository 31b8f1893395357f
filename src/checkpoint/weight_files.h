#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace sluice {

// The weight files of a checkpoint folder, each looked at by itself.
struct WeightFiles {
  struct File {
    std::string name;
    uint64_t bytes = 0;
    uint64_t tensors = 0;
  };
  std::vector<File> files;                       // those that could be read, by name
  std::map<std::string, uint64_t> stored_bytes;  // of tensors, by element type
  // What is wrong, one sentence a file: shards that the index lists and that are not there, files
  // cut short or damaged.
  std::vector<std::string> problems;
};

// Looks at `dir`/model.safetensors, or at every shard that its index lists, going on past what is
// wrong. Reads headers only.
WeightFiles InspectWeightFiles(const std::filesystem::path& dir);

}  // namespace sluice
