#include "hub/file_lock.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "base/error.h"

namespace sluice {
namespace {

constexpr std::chrono::milliseconds kPoll{50};

// Another holder may remove the file when it is done: a lock on a removed file locks nothing.
bool IsStillThere(int descriptor, const std::filesystem::path& path) {
  struct stat opened {};
  struct stat named {};
  return fstat(descriptor, &opened) == 0 && stat(path.c_str(), &named) == 0 &&
         opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

}  // namespace

FileLock::FileLock(const std::filesystem::path& path, const std::stop_token& stop) {
  std::error_code error;
  std::filesystem::create_directories(path.parent_path(), error);
  bool told = false;
  while (true) {
    descriptor_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (descriptor_ < 0) {
      throw Error(ErrorCode::kUnavailable,
                  path.string() + ": cannot be made: " + std::strerror(errno));
    }
    while (flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK && errno != EINTR) {
        const std::string reason = std::strerror(errno);
        close(descriptor_);
        throw Error(ErrorCode::kUnavailable, path.string() + ": cannot be locked: " + reason);
      }
      if (stop.stop_requested()) {
        close(descriptor_);
        throw Error(ErrorCode::kUnavailable, "stopped");
      }
      if (!told) spdlog::info("another process is fetching {}; waiting", path.stem().string());
      told = true;
      std::this_thread::sleep_for(kPoll);
    }
    if (IsStillThere(descriptor_, path)) return;
    close(descriptor_);
  }
}

FileLock::~FileLock() {
  close(descriptor_);
}

}  // namespace sluice
