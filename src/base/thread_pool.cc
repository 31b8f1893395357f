#include "base/thread_pool.h"

#include <algorithm>
#include <string>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/spin.h"

namespace sluice {
namespace {

uint32_t NumberOf(uint64_t loop) {
  return static_cast<uint32_t>(loop >> 16);
}

int64_t PiecesOf(uint64_t loop) {
  return static_cast<int64_t>(loop & 0xffff);
}

// A Share's `left`, unpacked.
struct Left {
  uint32_t number;
  int64_t next;
  int64_t end;
};

Left Unpack(uint64_t left) {
  return {.number = static_cast<uint32_t>(left >> 32),
          .next = static_cast<int64_t>(left >> 16 & 0xffff),
          .end = static_cast<int64_t>(left & 0xffff)};
}

uint64_t Pack(const Left& left) {
  return uint64_t{left.number} << 32 | static_cast<uint64_t>(left.next) << 16 |
         static_cast<uint64_t>(left.end);
}

// Of numbers that wrap around.
bool IsBefore(uint32_t a, uint32_t b) {
  return static_cast<int32_t>(a - b) < 0;
}

}  // namespace

ThreadPool::ThreadPool(int num_threads)
    : shares_(std::make_unique<Share[]>(std::max(num_threads, 1))) {
  SLUICE_CHECK_GE(num_threads, 1);
  threads_.reserve(num_threads - 1);
  try {
    for (int i = 1; i < num_threads; ++i) threads_.emplace_back([this, i] { ThreadMain(i); });
  } catch (const std::system_error& error) {
    const size_t started = threads_.size() + 1;
    StopThreads();
    throw Error(ErrorCode::kResourceExhausted,
                "could start " + std::to_string(started) + " of " + std::to_string(num_threads) +
                    " threads (" + error.what() + "): ask for fewer with --threads");
  }
}

ThreadPool::~ThreadPool() {
  StopThreads();
}

void ThreadPool::StopThreads() {
  stop_.store(true);
  Announce(0);
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::ParallelFor(int64_t count, int64_t grain, Body body) {
  if (count <= 0) return;
  SLUICE_CHECK_GE(grain, 1);
  if (threads_.empty() || count <= grain) {
    body(0, count, 0);
    return;
  }
  const int64_t most = grain * kMostPieces;
  if (count > most) grain *= (count + most - 1) / most;
  loop_.body = &body;
  loop_.count = count;
  loop_.grain = grain;
  failed_.store(false, std::memory_order_relaxed);
  Announce((count + grain - 1) / grain);
  RunPieces(loop_.number_and_pieces.load(std::memory_order_relaxed), 0);
  WaitForOthers();
  if (failed_.load(std::memory_order_relaxed)) {
    const std::lock_guard lock(mutex_);
    std::rethrow_exception(std::exchange(error_, nullptr));
  }
}

// Opens the next loop to the team.
void ThreadPool::Announce(int64_t pieces) {
  const uint64_t last = loop_.number_and_pieces.load(std::memory_order_relaxed);
  const uint32_t number = NumberOf(last) + 1;
  loop_.number_and_pieces.store(uint64_t{number} << 16 | static_cast<uint64_t>(pieces));
  // A thread counts itself as a sleeper before it looks at the loop for the last time, so one of
  // the two sides sees the other.
  if (sleepers_.load() > 0) {
    const std::lock_guard lock(mutex_);
    wake_.notify_all();
  }
}

// Takes a piece of what is left of a share: its owner the first one, others the last. kNoPiece
// where nothing is left or the loop is over.
int64_t ThreadPool::TakePiece(uint64_t loop, int owner, int thread) {
  const uint32_t number = NumberOf(loop);
  std::atomic<uint64_t>& share = shares_[owner].left;
  uint64_t seen = share.load(std::memory_order_acquire);
  while (true) {
    Left left = Unpack(seen);
    if (IsBefore(left.number, number)) {  // nobody has touched it in this loop: it is whole
      left = {.number = number,
              .next = PiecesOf(loop) * owner / num_threads(),
              .end = PiecesOf(loop) * (owner + 1) / num_threads()};
    } else if (left.number != number || left.next == left.end) {
      return kNoPiece;
    }
    int64_t piece = kNoPiece;
    if (left.next < left.end) piece = owner == thread ? left.next++ : --left.end;
    if (share.compare_exchange_weak(seen, Pack(left), std::memory_order_acq_rel,
                                    std::memory_order_acquire)) {
      return piece;
    }
  }
}

void ThreadPool::RunShare(uint64_t loop, int owner, int thread) {
  for (int64_t piece; (piece = TakePiece(loop, owner, thread)) != kNoPiece;) {
    if (failed_.load(std::memory_order_relaxed)) continue;
    const int64_t begin = piece * loop_.grain;
    try {
      (*loop_.body)(begin, std::min(begin + loop_.grain, loop_.count), thread);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
      failed_.store(true, std::memory_order_relaxed);
    }
  }
}

// Leaves no share with pieces, nor one that a late thread could take for whole.
void ThreadPool::RunPieces(uint64_t loop, int thread) {
  for (int i = 0; i < num_threads(); ++i) RunShare(loop, (thread + i) % num_threads(), thread);
}

// Whoever took a piece was inside before it did, so nobody is missed here.
void ThreadPool::WaitForOthers() {
  for (int thread = 1; thread < num_threads(); ++thread) {
    const std::atomic<bool>& inside = shares_[thread].inside;
    for (int spins = 0; inside.load(std::memory_order_acquire);) {
      if (++spins < kSpinsBeforeYield) {
        CpuRelax();
      } else {
        std::this_thread::yield();  // whoever is inside may be waiting for this very core
      }
    }
  }
}

// Returns the first loop that is not `seen`; also when the pool stops.
uint64_t ThreadPool::WaitForLoop(uint64_t seen) {
  const std::atomic<uint64_t>& loop = loop_.number_and_pieces;
  for (int spins = 0; spins < kSpinsBeforeSleep; ++spins) {
    if (const uint64_t now = loop.load(std::memory_order_acquire); now != seen) return now;
    CpuRelax();
  }
  std::unique_lock lock(mutex_);
  sleepers_.fetch_add(1);
  wake_.wait(lock, [&] { return loop.load() != seen; });
  sleepers_.fetch_sub(1);
  return loop.load();
}

void ThreadPool::ThreadMain(int thread) {
  uint64_t loop = 0;
  while (true) {
    loop = WaitForLoop(loop);
    if (stop_.load()) return;
    std::atomic<bool>& inside = shares_[thread].inside;
    inside.store(true, std::memory_order_relaxed);
    RunPieces(loop, thread);
    inside.store(false, std::memory_order_release);
  }
}

}  // namespace sluice
