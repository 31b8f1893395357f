#include "bench/bandwidth.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/error.h"
#include "bench/timing.h"
#include "device/buffer.h"

namespace sluice {
namespace {

constexpr int kAttempts = 5;

// The widest loads that this processor has: a narrower loop would measure the loop. Not under
// ThreadSanitizer, which is not up yet when the loader resolves the clones.
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
#define SLUICE_WIDEST __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define SLUICE_WIDEST
#endif
// Fetches ahead as the kernels do: memory does more than one core asks for by itself.
SLUICE_WIDEST uint64_t SumWords(const uint64_t* words, int64_t count) {
  constexpr int64_t kLine = 8;
  constexpr int64_t kAhead = 512;
  uint64_t sums[32] = {};
  for (int64_t i = 0; i < count; i += 32) {
    for (int64_t j = 0; j < 32; j += kLine) __builtin_prefetch(words + i + kAhead + j);
    for (int64_t j = 0; j < 32; ++j) sums[j] += words[i + j];
  }
  return std::accumulate(std::begin(sums), std::end(sums), uint64_t{0});
}

// A new file, removed with this.
class ScratchFile {
 public:
  explicit ScratchFile(const std::filesystem::path& dir) {
    path_ = (dir / "sluice-disk-XXXXXX").string();
    fd_ = mkstemp(path_.data());
    if (fd_ < 0) Fail("made");
  }
  ~ScratchFile() {
    close(fd_);
    unlink(path_.c_str());
  }
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;

  int fd() const { return fd_; }
  const std::string& path() const { return path_; }
  [[noreturn]] void Fail(const char* what) const {
    throw Error(ErrorCode::kResourceExhausted, path_ + " cannot be " + what + ": " +
                                                   std::strerror(errno) +
                                                   "; name another folder with --disk-dir");
  }

 private:
  std::string path_;
  int fd_ = -1;
};

void FillFile(const ScratchFile& file, int64_t bytes, std::byte* block, int64_t block_bytes) {
  std::memset(block, 1, block_bytes);
  for (int64_t done = 0; done < bytes; done += block_bytes) {
    const ssize_t wrote = write(file.fd(), block, block_bytes);
    if (wrote != block_bytes) file.Fail("written");
  }
  if (fsync(file.fd()) != 0) file.Fail("written");
}

// Bytes per second of one pass over the file; empty where it cannot be read past the cache.
std::optional<double> ReadPastCache(const ScratchFile& file, int64_t bytes, std::byte* block,
                                    int64_t block_bytes) {
  const int fd = open(file.path().c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
  if (fd < 0) return std::nullopt;
  const BenchClock::time_point start = BenchClock::now();
  int64_t done = 0;
  while (done < bytes) {
    const ssize_t got = read(fd, block, block_bytes);
    if (got <= 0) break;
    done += got;
  }
  const double seconds = SecondsSince(start);
  close(fd);
  if (done < bytes) return std::nullopt;
  return static_cast<double>(bytes) / seconds;
}

}  // namespace

double MeasureReadBandwidth(ThreadPool& pool, int64_t bytes) {
  constexpr int64_t kPiece = 64 << 10;
  // Far beyond any cache a larger buffer shows nothing new, and it has to fit beside the model.
  constexpr int64_t kMost = int64_t{1} << 30;
  const int64_t count = std::clamp<int64_t>(bytes, 1 << 20, kMost) / kPiece * kPiece;
  Buffer buffer(count);
  std::memset(buffer.data(), 1, buffer.size());
  std::vector<uint64_t> sums(pool.num_threads());
  double best = 0;
  // Enough passes that a timing is at least some milliseconds.
  const int64_t passes = std::max<int64_t>(1, (int64_t{256} << 20) / count);
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const BenchClock::time_point start = BenchClock::now();
    for (int64_t pass = 0; pass < passes; ++pass) {
      pool.ParallelFor(count / kPiece, 16, [&](int64_t begin, int64_t end, int thread) {
        const auto* words = reinterpret_cast<const uint64_t*>(buffer.data() + begin * kPiece);
        sums[thread] += SumWords(words, (end - begin) * kPiece / 8);
      });
    }
    best = std::max(best, static_cast<double>(count * passes) / SecondsSince(start));
  }
  // The sums are used, so that the loop above is not optimised away.
  SLUICE_CHECK_NE(std::accumulate(sums.begin(), sums.end(), uint64_t{0}), uint64_t{0});
  return best;
}

double MeasureDeviceBandwidth(CudaStream& stream) {
  // Far beyond any cache. A copy reads and writes every byte.
  const uint64_t free = CudaFreeBytes(stream.device().ordinal);
  const size_t bytes = std::min<uint64_t>(uint64_t{1} << 30, free / 3);
  const Buffer from(bytes, MemoryKind::kCuda);
  const Buffer to(bytes, MemoryKind::kCuda);
  stream.Fill(from.data(), 1, bytes);
  CudaEvent begin;
  CudaEvent end;
  double best = 0;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    begin.Record(stream);
    stream.Copy(to.data(), from.data(), bytes);
    end.Record(stream);
    end.Synchronize();
    best = std::max(best, 2.0 * static_cast<double>(bytes) / end.SecondsSince(begin));
  }
  return best;
}

LinkBandwidth MeasureLinkBandwidth(CudaStream& stream, size_t copy_bytes) {
  constexpr size_t kLeast = size_t{64} << 20;
  const size_t bytes = (kLeast + copy_bytes - 1) / copy_bytes * copy_bytes;
  const Buffer host(bytes, MemoryKind::kPinned);
  const Buffer device(bytes, MemoryKind::kCuda);
  std::memset(host.data(), 1, bytes);
  CudaEvent begin;
  CudaEvent end;
  const auto best_of = [&](std::byte* target, const std::byte* source) {
    double best = 0;
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      begin.Record(stream);
      for (size_t at = 0; at < bytes; at += copy_bytes) {
        stream.Copy(target + at, source + at, copy_bytes);
      }
      end.Record(stream);
      end.Synchronize();
      best = std::max(best, static_cast<double>(bytes) / end.SecondsSince(begin));
    }
    return best;
  };
  const double to_device = best_of(device.data(), host.data());
  return {.to_device = to_device, .to_host = best_of(host.data(), device.data())};
}

std::optional<double> MeasureDiskRead(const std::filesystem::path& dir, int64_t bytes) {
  constexpr int64_t kBlock = 8 << 20;
  constexpr int64_t kAlignment = 4096;
  const int64_t size = std::max(bytes / kBlock, int64_t{1}) * kBlock;
  // Reads past the cache need memory that is aligned to the disk's blocks.
  const Buffer memory(kBlock + kAlignment);
  void* aligned = memory.data();
  size_t space = memory.size();
  auto* block = static_cast<std::byte*>(std::align(kAlignment, kBlock, aligned, space));
  const ScratchFile file(dir);
  FillFile(file, size, block, kBlock);
  std::optional<double> best;
  for (int attempt = 0; attempt < 3; ++attempt) {
    const std::optional<double> rate = ReadPastCache(file, size, block, kBlock);
    if (!rate) return std::nullopt;
    best = std::max(best.value_or(0.0), *rate);
  }
  return best;
}

}  // namespace sluice
