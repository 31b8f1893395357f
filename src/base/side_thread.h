#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

namespace sluice {

// A thread that does one piece of work at a time beside its caller, which waits for the end.
// Between pieces it spins for a moment before it sleeps. Work that it has not come to when the
// caller waits is the caller's: a thread that wakes up late holds nobody up. Used by one thread.
class SideThread {
 public:
  // Before any work the thread calls `first`, say to name itself: it is never run on the caller's,
  // as work may be. Throws Error(kResourceExhausted) when the system gives no more threads.
  explicit SideThread(std::function<void()> first = {});
  // Waits for what was begun.
  ~SideThread();
  SideThread(const SideThread&) = delete;
  SideThread& operator=(const SideThread&) = delete;

  // What was begun before has been finished. What `work` refers to lasts until this has been.
  void Begin(std::function<void()> work);
  // Returns when the work is done, and rethrows what it threw; at once where none was begun.
  void Finish();

 private:
  enum class State { kIdle, kOffered, kRunning, kDone };

  void Main(const std::function<void()>& first);
  bool AwaitOffer();
  void Run();

  std::atomic<State> state_{State::kIdle};
  std::function<void()> work_;  // of whoever made it kRunning, likewise the next
  std::exception_ptr error_;
  std::atomic<bool> stop_{false};
  std::atomic<bool> sleeps_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::thread thread_;
};

}  // namespace sluice
