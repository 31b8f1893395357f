#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "offload/expert_layout.h"

namespace sluice {

// Why an expert is brought.
enum class FetchReason {
  kDemand,    // the layer that runs needs it
  kPrefetch,  // a later one is expected to
};

// A read that has ended.
struct ExpertRead {
  int32_t index = 0;
  std::string error;  // names the expert and the cause; empty = its bytes are there
};

// Threads that read experts into host memory beside the caller: they do little but wait for disks.
// Used by one thread.
class ExpertReaders {
 public:
  // All references outlive it. Throws Error(kResourceExhausted) when the system gives no threads.
  ExpertReaders(const ExpertLayout& layout, const ExpertSet& experts, const ExpertSource& source,
                int num_threads);
  // Waits for the reads that have begun and drops the others.
  ~ExpertReaders();
  ExpertReaders(const ExpertReaders&) = delete;
  ExpertReaders& operator=(const ExpertReaders&) = delete;

  // Queues reading an expert to `target`, which nothing else touches until the read is collected.
  // Demands go before prefetches, otherwise in the order asked.
  void Begin(int32_t index, std::byte* target, FetchReason reason);

  // Appends the reads that have ended to `ended`; with `wait`, waits for one if any is under way.
  void Collect(bool wait, std::vector<ExpertRead>& ended);

  // Reads begun and not collected.
  int UnderWay() const { return under_way_; }
  // Bytes that were read so far, those of collected reads.
  uint64_t bytes_read() const { return bytes_read_; }

 private:
  struct Job {
    int32_t index;
    std::byte* target;
  };

  void Main();
  bool TakeJob(Job& job);
  ExpertRead Read(const Job& job) const;
  void Stop();

  const ExpertLayout& layout_;
  const ExpertSet& experts_;
  const ExpertSource& source_;
  int under_way_ = 0;
  uint64_t bytes_read_ = 0;

  std::mutex mutex_;  // guards those below
  std::condition_variable asked_;
  std::condition_variable ended_one_;
  std::deque<Job> demands_;
  std::deque<Job> prefetches_;
  std::vector<ExpertRead> ended_;
  bool stop_ = false;

  std::vector<std::thread> threads_;
};

}  // namespace sluice
