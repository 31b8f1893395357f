#pragma once

#include <filesystem>
#include <stop_token>

namespace sluice {

// An advisory lock between processes, held from construction to destruction: flock() on a file that
// stays, as huggingface_hub locks the blobs of its cache, so that its pulls and ours take turns.
// The system gives the lock back when a process dies.
class FileLock {
 public:
  // Waits for the holder; makes the folders above `path`. Throws Error(kUnavailable) when the file
  // cannot be made or when `stop` is asked for while waiting.
  FileLock(const std::filesystem::path& path, const std::stop_token& stop);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int descriptor_ = -1;
};

}  // namespace sluice
