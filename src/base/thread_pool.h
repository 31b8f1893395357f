#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/function_ref.h"

namespace sluice {

// A fixed team of threads for data-parallel loops. The calling thread works too, so a pool of N
// runs N - 1 threads of its own. Between loops the team spins for a moment before it sleeps: a
// decode step is some dozens of loops, microseconds apart.
//
// Every thread begins with its own share of a loop, the same part of the indices each time, and
// takes pieces of the others' shares when it is through. So a thread reads on where it read before,
// in its own caches, and threads that are even never touch the same memory to share out the work.
//
// One loop runs at a time: ParallelFor may be called from any one thread, and not from inside a
// loop's body.
class ThreadPool {
 public:
  // `num_threads` counts the caller; at least 1. Throws Error(kResourceExhausted) when the system
  // gives no more threads.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(threads_.size()) + 1; }

  using Body = FunctionRef<void(int64_t begin, int64_t end, int thread)>;
  // Calls body(begin, end, thread) over disjoint pieces that cover [0, count). A piece begins at a
  // multiple of `grain` and holds `grain` indices (the last one fewer; all of them a multiple of it
  // where that would make more than 65,535 pieces). `thread` is in [0, num_threads()). Returns when
  // all pieces are done. The first exception thrown by a body is rethrown here; the remaining
  // pieces are dropped.
  void ParallelFor(int64_t count, int64_t grain, Body body);

 private:
  // Bytes that two cores pass to and fro as one: of neighbouring cache lines, too, one is fetched
  // with the other.
  static constexpr size_t kApart = 128;

  // The current loop. The caller writes the plain members and then `number_and_pieces`; a thread
  // reads them once it has a piece of the loop of that number, which keeps the caller inside it.
  struct alignas(kApart) Loop {
    std::atomic<uint64_t> number_and_pieces{0};  // the loop's number << 16 | how many pieces
    const Body* body = nullptr;
    int64_t count = 0;
    int64_t grain = 1;
  };

  // What is left of a thread's share of the loop of some number: pieces [next, end).
  struct alignas(kApart) Share {
    std::atomic<uint64_t> left{0};  // number << 32 | next << 16 | end
    std::atomic<bool> inside{
        false};  // whether its thread may be in a body or about to take a piece
  };

  static constexpr int64_t kMostPieces = 0xffff;
  static constexpr int64_t kNoPiece = -1;

  void ThreadMain(int thread);
  void StopThreads();
  void Announce(int64_t pieces);
  void RunPieces(uint64_t loop, int thread);
  void RunShare(uint64_t loop, int owner, int thread);
  int64_t TakePiece(uint64_t loop, int owner, int thread);
  void WaitForOthers();
  uint64_t WaitForLoop(uint64_t seen);

  std::vector<std::thread> threads_;
  const std::unique_ptr<Share[]> shares_;  // [num_threads]
  Loop loop_;

  alignas(kApart) std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;  // guarded by mutex_
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace sluice
