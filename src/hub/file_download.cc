#include "hub/file_download.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "hub/digest.h"
#include "hub/retry.h"

namespace sluice {

namespace fs = std::filesystem;

namespace {

constexpr size_t kReadBytes = 1 << 20;

// A file that is written at its end, with the digest of all it holds.
class PartialFile {
 public:
  PartialFile(const fs::path& path, const HubFile& file)
      : path_(path), file_(file), digest_(file.digest_kind(), file.size) {
    descriptor_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (descriptor_ < 0) Fail("cannot be made");
    std::vector<char> chunk(kReadBytes);
    for (ssize_t count = 0; (count = read(descriptor_, chunk.data(), chunk.size())) != 0;) {
      if (count < 0) Fail("cannot be read");
      size_ += static_cast<uint64_t>(count);
      if (size_ > file.size) break;
      digest_.Update({chunk.data(), static_cast<size_t>(count)});
    }
    if (size_ > file.size) Restart();
  }
  ~PartialFile() { close(descriptor_); }
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;

  uint64_t size() const { return size_; }

  void Append(std::string_view bytes) {
    digest_.Update(bytes);
    size_ += bytes.size();
    while (!bytes.empty()) {
      const ssize_t count = write(descriptor_, bytes.data(), bytes.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) Fail("cannot be written");
      bytes.remove_prefix(static_cast<size_t>(count));
    }
  }

  void Restart() {
    if (ftruncate(descriptor_, 0) != 0 || lseek(descriptor_, 0, SEEK_SET) != 0) {
      Fail("cannot be emptied");
    }
    size_ = 0;
    digest_ = Digest(file_.digest_kind(), file_.size);
  }

  // Waits until the content is on disk, so that a name given to it later never names less.
  std::string Finish() {
    if (fdatasync(descriptor_) != 0) Fail("cannot be written");
    return digest_.Finish();
  }

 private:
  [[noreturn]] void Fail(const char* what) const {
    const int reason = errno;
    throw Error(reason == ENOSPC || reason == EDQUOT ? ErrorCode::kResourceExhausted
                                                     : ErrorCode::kUnavailable,
                path_.string() + ": " + what + ": " + std::strerror(reason));
  }

  fs::path path_;
  const HubFile& file_;
  Digest digest_;
  int descriptor_ = -1;
  uint64_t size_ = 0;
};

// "bytes FIRST-LAST/TOTAL" of a Content-Range: whether it begins at `first` of `total`.
bool RangeIs(const std::string& field, uint64_t first, uint64_t total) {
  const std::string begin = fmt::format("bytes {}-", first);
  const std::string end = fmt::format("/{}", total);
  return field.starts_with(begin) && (field.ends_with(end) || field.ends_with("/*"));
}

class Download {
 public:
  Download(const HubClient& client, const HubModel& model, const HubFile& file,
           const fs::path& path, const OnFetched& on_fetched, const std::stop_token& stop)
      : client_(client),
        model_(model),
        file_(file),
        on_fetched_(on_fetched),
        stop_(stop),
        what_(model.name + "/" + file.path),
        partial_(path, file) {
    on_fetched_(static_cast<int64_t>(partial_.size()));
  }

  uint64_t size() const { return partial_.size(); }

  void Restart() {
    on_fetched_(-static_cast<int64_t>(partial_.size()));
    partial_.Restart();
    etag_.reset();
  }

  // Brings the file to its size; an empty file needs no request.
  void FetchRest() {
    Backoff backoff(client_.options().max_retries);
    while (partial_.size() < file_.size) {
      const uint64_t before = partial_.size();
      try {
        FetchOnce();
        if (partial_.size() < file_.size) {
          throw TransientError(what_ + ": the connection ended early");
        }
      } catch (const TransientError& error) {
        if (partial_.size() > before) backoff.Reset();
        backoff.Wait(error, stop_);
      }
    }
  }

  std::string Finish() { return partial_.Finish(); }

 private:
  void FetchOnce() {
    const uint64_t offset = partial_.size();
    client_.GetContent(
        model_, file_, offset, etag_, [&](const HttpHead& head) { return Begin(head, offset); },
        [&](std::string_view bytes) {
          if (stop_.stop_requested()) throw Error(ErrorCode::kUnavailable, "stopped");
          if (partial_.size() + bytes.size() > file_.size) {
            throw Error(ErrorCode::kDataLoss, what_ + ": more than the " +
                                                  std::to_string(file_.size) +
                                                  " bytes that the hub lists came");
          }
          partial_.Append(bytes);
          on_fetched_(static_cast<int64_t>(bytes.size()));
        });
  }

  // Settles where the body goes. Content that is not what was asked for begins anew.
  bool Begin(const HttpHead& head, uint64_t offset) {
    const bool continues =
        head.status == 206 && RangeIs(head.Find("content-range").value_or(""), offset, file_.size);
    if (offset > 0 && !continues) Restart();
    if (head.status != 200 && !continues) {
      throw TransientError(what_ + ": the server cannot go on from byte " + std::to_string(offset));
    }
    // Only a strong ETag may stand in If-Range (RFC 9110, 13.1.5).
    const std::optional<std::string> etag = head.Find("etag");
    if (etag && etag->starts_with('"')) etag_ = etag;
    return true;
  }

  const HubClient& client_;
  const HubModel& model_;
  const HubFile& file_;
  const OnFetched& on_fetched_;
  const std::stop_token& stop_;
  std::string what_;
  PartialFile partial_;
  std::optional<std::string> etag_;  // of the host that sent the last piece
};

}  // namespace

void DownloadFile(const HubClient& client, const HubModel& model, const HubFile& file,
                  const fs::path& partial, const OnFetched& on_fetched,
                  const std::stop_token& stop) {
  fs::create_directories(partial.parent_path());
  Download download(client, model, file, partial, on_fetched, stop);
  bool resumed = download.size() > 0;
  while (true) {
    download.FetchRest();
    const std::string found = download.Finish();
    if (found == file.etag) return;
    // What an earlier run left may have been the wrong part.
    if (!std::exchange(resumed, false)) {
      std::error_code ignored;
      fs::remove(partial, ignored);
      throw Error(ErrorCode::kDataLoss,
                  model.name + "/" + file.path + ": what came has the hash " + found +
                      ", the hub lists " + file.etag +
                      ": it was damaged on its way and is removed; pull again, or from another "
                      "--endpoint");
    }
    download.Restart();
  }
}

bool HasContent(const fs::path& path, const HubFile& file) {
  std::error_code error;
  if (!fs::is_regular_file(path, error) || fs::file_size(path, error) != file.size || error) {
    return false;
  }
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return false;
  Digest digest(file.digest_kind(), file.size);
  std::vector<char> chunk(kReadBytes);
  ssize_t count = 0;
  while ((count = read(descriptor, chunk.data(), chunk.size())) > 0) {
    digest.Update({chunk.data(), static_cast<size_t>(count)});
  }
  close(descriptor);
  return count == 0 && digest.Finish() == file.etag;
}

}  // namespace sluice
