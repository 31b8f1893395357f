#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::testing {

// The bytes of a safetensors file with this header text and `data_bytes` of data that count up.
inline std::vector<std::byte> SafetensorsBytes(std::string_view header, size_t data_bytes) {
  std::vector<std::byte> bytes;
  for (int i = 0; i < 8; ++i) {
    bytes.push_back(static_cast<std::byte>(static_cast<uint64_t>(header.size()) >> (8 * i)));
  }
  for (const char c : header) bytes.push_back(static_cast<std::byte>(c));
  for (size_t i = 0; i < data_bytes; ++i) bytes.push_back(static_cast<std::byte>(i & 0xff));
  return bytes;
}

// A folder under the system's temporary one, removed with what is in it.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(const std::string& name)
      : path_(std::filesystem::temp_directory_path() /
              ("sluice_" + name + "_" + std::to_string(getpid()))) {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

  void Write(const std::string& name, std::string_view text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
  }
  void Write(const std::string& name, const std::vector<std::byte>& bytes) const {
    Write(name, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  }

 private:
  std::filesystem::path path_;
};

}  // namespace sluice::testing
