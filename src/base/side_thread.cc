#include "base/side_thread.h"

#include <string>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/spin.h"

namespace sluice {
SideThread::SideThread(std::function<void()> first) {
  try {
    thread_ = std::thread([this, first = std::move(first)] { Main(first); });
  } catch (const std::system_error& error) {
    throw Error(ErrorCode::kResourceExhausted,
                std::string("could not start a thread (") + error.what() + ")");
  }
}

SideThread::~SideThread() {
  try {
    Finish();
  } catch (...) {  // whoever began it does not ask any more
  }
  stop_.store(true);
  {
    const std::lock_guard lock(mutex_);
    wake_.notify_all();
  }
  thread_.join();
}

void SideThread::Begin(std::function<void()> work) {
  SLUICE_CHECK(state_.load() == State::kIdle);
  work_ = std::move(work);
  state_.store(State::kOffered);
  // The thread says that it sleeps before it looks for the last time: one of the two sees the
  // other.
  if (!sleeps_.load()) return;
  const std::lock_guard lock(mutex_);
  wake_.notify_all();
}

void SideThread::Finish() {
  State state = State::kOffered;
  if (state_.compare_exchange_strong(state, State::kRunning)) {
    Run();
  } else if (state == State::kIdle) {
    return;
  }
  for (int spins = 0; state_.load(std::memory_order_acquire) != State::kDone;) {
    if (++spins < kSpinsBeforeYield) {
      CpuRelax();
    } else {
      std::this_thread::yield();
    }
  }
  work_ = nullptr;
  state_.store(State::kIdle);
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void SideThread::Run() {
  try {
    work_();
  } catch (...) {
    error_ = std::current_exception();
  }
  state_.store(State::kDone, std::memory_order_release);
}

void SideThread::Main(const std::function<void()>& first) {
  if (first) first();
  while (AwaitOffer()) {
    State state = State::kOffered;
    if (state_.compare_exchange_strong(state, State::kRunning)) Run();
  }
}

// False when it is to stop.
bool SideThread::AwaitOffer() {
  const auto ends = [this] { return stop_.load() || state_.load() == State::kOffered; };
  for (int spins = 0; spins < kSpinsBeforeSleep && !ends(); ++spins) CpuRelax();
  if (!ends()) {
    std::unique_lock lock(mutex_);
    sleeps_.store(true);
    wake_.wait(lock, ends);
    sleeps_.store(false);
  }
  return !stop_.load();
}

}  // namespace sluice
