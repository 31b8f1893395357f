#include "offload/expert_link.h"

#include <sys/prctl.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include "base/check.h"
#include "offload/link_pace.h"

namespace sluice {
namespace {

using Clock = LinkPace::Clock;
using Seconds = std::chrono::duration<double>;

class ThreadLink : public ExpertLink {
 public:
  ThreadLink(const SimulatedLink& simulated, Timeline* timeline)
      : timeline_(timeline),
        track_(timeline == nullptr ? -1 : timeline->AddTrack("link")),
        pace_(simulated),
        thread_([this] { Main(); }) {}

  // Ends the copy that runs and drops the others.
  ~ThreadLink() override {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  ThreadLink(const ThreadLink&) = delete;
  ThreadLink& operator=(const ThreadLink&) = delete;

  Ticket Copy(std::byte* target, const std::byte* source, size_t bytes, Mark /*readers*/,
              const Label& label) override {
    return Queue({.target = target,
                  .source = source,
                  .bytes = bytes,
                  .queued = Clock::now(),
                  .label = label});
  }
  Ticket Poison(std::byte* target, size_t bytes, Mark /*readers*/) override {
    return Queue(
        {.target = target, .source = nullptr, .bytes = bytes, .queued = Clock::now(), .label = {}});
  }
  bool Arrived(Ticket ticket) override {
    return ticket <= arrived_.load(std::memory_order_acquire);
  }
  void Await(Ticket ticket) override { Wait(ticket); }
  void Wait(Ticket ticket) override {
    if (Arrived(ticket)) return;
    SLUICE_CHECK_LE(ticket, last_);
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return Arrived(ticket); });
  }
  Mark MarkReaders() override { return 0; }
  LinkUse Use() override {
    const std::lock_guard lock(mutex_);
    return use_;
  }

 private:
  struct Job {
    std::byte* target;
    const std::byte* source;  // null = poison
    size_t bytes;
    Clock::time_point queued;
    Label label;
  };

  Ticket Queue(const Job& job) {
    const std::lock_guard lock(mutex_);
    queue_.push_back(job);
    changed_.notify_all();
    return ++last_;
  }

  void Main() {
    prctl(PR_SET_TIMERSLACK, 1);  // sleeps end on time: by default up to 50 us later
    std::vector<Job> jobs;
    while (TakeJobs(jobs)) {
      for (const Job& job : jobs) {
        if (stop_) return;
        Run(job);
      }
      jobs.clear();
    }
  }

  // All that are queued: the two vectors change places, and no memory is taken.
  bool TakeJobs(std::vector<Job>& jobs) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return stop_ || !queue_.empty(); });
    jobs.swap(queue_);
    return !stop_;
  }

  void Run(const Job& job) {
    Seconds busy{};
    if (job.source == nullptr) {
      std::memset(job.target, 0xff, job.bytes);
    } else {
      const Clock::time_point copying = Clock::now();
      std::memcpy(job.target, job.source, job.bytes);
      const auto [begin, end] = pace_.Next(job.queued, Clock::now() - copying, job.bytes);
      std::this_thread::sleep_until(end);
      busy = end - begin;
      if (timeline_ != nullptr) timeline_->Add(track_, job.label.name, begin, end, job.label.facts);
    }
    const std::lock_guard lock(mutex_);
    if (job.source != nullptr) {
      ++use_.copies;
      use_.bytes += job.bytes;
      use_.busy_s += busy.count();
    }
    arrived_.fetch_add(1, std::memory_order_release);
    changed_.notify_all();
  }

  Timeline* const timeline_;
  const int track_;
  Ticket last_ = 0;  // the caller's
  LinkPace pace_;    // the thread's
  std::atomic<Ticket> arrived_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;  // guards those below
  std::condition_variable changed_;
  std::vector<Job> queue_;
  LinkUse use_;
  std::thread thread_;
};

}  // namespace

std::unique_ptr<ExpertLink> MakeThreadLink(const SimulatedLink& simulated, Timeline* timeline) {
  return std::make_unique<ThreadLink>(simulated, timeline);
}

}  // namespace sluice
