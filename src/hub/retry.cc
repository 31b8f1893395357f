#include "hub/retry.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>

namespace sluice {
namespace {

constexpr std::chrono::milliseconds kFirstDelay{500};
constexpr std::chrono::milliseconds kLongestDelay{30'000};
constexpr std::chrono::minutes kPatience{10};

}  // namespace

void Backoff::Wait(const TransientError& error, const std::stop_token& stop) {
  const std::chrono::seconds asked = error.retry_after().value_or(std::chrono::seconds(0));
  if (left_ == 0 || asked > kPatience || stop.stop_requested()) throw error;
  --left_;
  const std::chrono::milliseconds delay = std::max<std::chrono::milliseconds>(delay_, asked);
  delay_ = std::min(delay_ * 2, kLongestDelay);
  spdlog::warn("{}; trying again in {:.1f} s", error.what(),
               static_cast<double>(delay.count()) / 1000);
  std::mutex mutex;
  std::unique_lock lock(mutex);
  std::condition_variable_any wake;
  if (wake.wait_for(lock, stop, delay, [] { return false; }); stop.stop_requested()) throw error;
}

void Backoff::Reset() {
  left_ = max_retries_;
  delay_ = kFirstDelay;
}

}  // namespace sluice
