#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace sluice {

// A fixed team of threads for data-parallel loops. The calling thread works too, so a pool of N
// runs N - 1 threads of its own. Between loops the team spins for a moment before it sleeps: a
// decode step is some hundred loops, microseconds apart.
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

  // Calls body(begin, end, thread) over disjoint pieces that cover [0, count). A piece holds
  // `grain` indices (the last one fewer); threads take the next piece when they finish one, so
  // uneven pieces balance. `thread` is in [0, num_threads()). Returns when all pieces are done. The
  // first exception thrown by a body is rethrown here; the remaining pieces are dropped.
  void ParallelFor(int64_t count, int64_t grain,
                   const std::function<void(int64_t begin, int64_t end, int thread)>& body);

 private:
  void ThreadMain(int thread);
  void StopThreads();
  void RunPieces(int thread);
  bool Enter();
  void Close();
  void WaitForLoop(uint64_t* seen);

  std::vector<std::thread> threads_;

  // The current loop: written by the caller while the loop is closed, read by threads inside it.
  const std::function<void(int64_t, int64_t, int)>* body_ = nullptr;
  int64_t count_ = 0;
  int64_t grain_ = 1;
  std::atomic<int64_t> next_{0};

  // Whether the loop is open to join (kOpen), and how many threads of the team are inside. A thread
  // that wakes late finds the loop closed and is not waited for.
  static constexpr uint32_t kOpen = 1u << 31;
  std::atomic<uint32_t> state_{0};

  std::atomic<uint64_t> generation_{0};  // advanced with each loop, and to stop
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;  // guarded by mutex_
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace sluice
