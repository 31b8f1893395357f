#include "base/thread_pool.h"

#include <algorithm>
#include <string>
#include <system_error>
#include <utility>

#include "base/check.h"

namespace sluice {
namespace {

// Long enough to bridge the serial code between two loops of a step, short enough that an idle
// server sleeps.
constexpr int kSpinsBeforeSleep = 20'000;

// A piece is microseconds of work; past that the thread inside is not running.
constexpr int kSpinsBeforeYield = 2'000;

inline void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) {
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
  {
    std::lock_guard lock(mutex_);
    stop_.store(true);
    generation_.fetch_add(1);
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::ParallelFor(int64_t count, int64_t grain,
                             const std::function<void(int64_t, int64_t, int)>& body) {
  if (count <= 0) return;
  SLUICE_CHECK_GE(grain, 1);
  if (threads_.empty() || count <= grain) {
    body(0, count, 0);
    return;
  }
  body_ = &body;
  count_ = count;
  grain_ = grain;
  next_.store(0, std::memory_order_relaxed);
  failed_.store(false, std::memory_order_relaxed);
  state_.store(kOpen, std::memory_order_release);
  generation_.fetch_add(1);
  // A thread counts itself as a sleeper before it looks at the generation for the last time, so one
  // of the two sides sees the other.
  if (sleepers_.load() > 0) {
    std::lock_guard lock(mutex_);
    wake_.notify_all();
  }
  RunPieces(0);
  Close();
  if (failed_.load(std::memory_order_relaxed)) {
    std::lock_guard lock(mutex_);
    std::rethrow_exception(std::exchange(error_, nullptr));
  }
}

// Joins the current loop unless it is closed.
bool ThreadPool::Enter() {
  uint32_t state = state_.load(std::memory_order_relaxed);
  while ((state & kOpen) != 0) {
    if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire)) return true;
  }
  return false;
}

// Lets nobody join any more and waits for those inside.
void ThreadPool::Close() {
  uint32_t inside = state_.fetch_and(~kOpen, std::memory_order_acquire) & ~kOpen;
  for (int spins = 0; inside != 0; inside = state_.load(std::memory_order_acquire)) {
    if (++spins < kSpinsBeforeYield) {
      CpuRelax();
    } else {
      std::this_thread::yield();  // whoever is inside may be waiting for this very core
    }
  }
}

void ThreadPool::RunPieces(int thread) {
  try {
    while (!failed_.load(std::memory_order_relaxed)) {
      const int64_t begin = next_.fetch_add(grain_, std::memory_order_relaxed);
      if (begin >= count_) return;
      (*body_)(begin, std::min(begin + grain_, count_), thread);
    }
  } catch (...) {
    std::lock_guard lock(mutex_);
    if (!error_) error_ = std::current_exception();
    failed_.store(true, std::memory_order_relaxed);
  }
}

// Returns when there is a loop that this thread has not seen, or when the pool stops.
void ThreadPool::WaitForLoop(uint64_t* seen) {
  for (int spins = 0; spins < kSpinsBeforeSleep; ++spins) {
    if (generation_.load(std::memory_order_acquire) != *seen) break;
    CpuRelax();
  }
  if (generation_.load(std::memory_order_acquire) == *seen) {
    std::unique_lock lock(mutex_);
    sleepers_.fetch_add(1);
    wake_.wait(lock, [&] { return generation_.load() != *seen; });
    sleepers_.fetch_sub(1);
  }
  *seen = generation_.load(std::memory_order_acquire);
}

void ThreadPool::ThreadMain(int thread) {
  uint64_t seen = 0;
  while (true) {
    WaitForLoop(&seen);
    if (stop_.load()) return;
    if (!Enter()) continue;
    RunPieces(thread);
    state_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace sluice
