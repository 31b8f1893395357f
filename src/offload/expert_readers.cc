#include "offload/expert_readers.h"

#include <exception>
#include <system_error>
#include <utility>

#include "base/error.h"

namespace sluice {

ExpertReaders::ExpertReaders(const ExpertLayout& layout, const ExpertSet& experts,
                             const ExpertSource& source, int num_threads)
    : layout_(layout), experts_(experts), source_(source) {
  try {
    for (int i = 0; i < num_threads; ++i) threads_.emplace_back([this] { Main(); });
  } catch (const std::system_error& error) {
    Stop();
    throw Error(ErrorCode::kResourceExhausted, "could not start " + std::to_string(num_threads) +
                                                   " threads that read experts: " + error.what());
  }
}

ExpertReaders::~ExpertReaders() {
  Stop();
}

void ExpertReaders::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  asked_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void ExpertReaders::Begin(int32_t index, std::byte* target, FetchReason reason) {
  ++under_way_;
  {
    const std::lock_guard lock(mutex_);
    (reason == FetchReason::kDemand ? demands_ : prefetches_).push_back({index, target});
  }
  asked_.notify_one();
}

void ExpertReaders::Collect(bool wait, std::vector<ExpertRead>& ended) {
  if (under_way_ == 0) return;
  std::unique_lock lock(mutex_);
  if (wait) ended_one_.wait(lock, [this] { return !ended_.empty(); });
  for (ExpertRead& read : ended_) {
    --under_way_;
    if (read.error.empty()) bytes_read_ += static_cast<uint64_t>(layout_.SlotBytes());
    ended.push_back(std::move(read));
  }
  ended_.clear();
}

bool ExpertReaders::TakeJob(Job& job) {
  std::unique_lock lock(mutex_);
  asked_.wait(lock, [this] { return stop_ || !demands_.empty() || !prefetches_.empty(); });
  if (stop_) return false;
  std::deque<Job>& queue = demands_.empty() ? prefetches_ : demands_;
  job = queue.front();
  queue.pop_front();
  return true;
}

void ExpertReaders::Main() {
  Job job{};
  while (TakeJob(job)) {
    ExpertRead read = Read(job);
    {
      const std::lock_guard lock(mutex_);
      ended_.push_back(std::move(read));
    }
    ended_one_.notify_one();
  }
}

ExpertRead ExpertReaders::Read(const Job& job) const {
  try {
    source_.Read(experts_.LayerOf(job.index), experts_.SourceExpertOf(job.index),
                 SlotViewOf(layout_, job.target));
    return {.index = job.index, .error = {}};
  } catch (const std::exception& error) {
    return {.index = job.index,
            .error = experts_.NameOf(job.index) + " could not be read: " + error.what()};
  }
}

}  // namespace sluice
